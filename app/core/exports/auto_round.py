"""A manifest as the `layer_config` of AutoRound (auto_round 0.16, `QuantizationScheme`)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Final

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import UnsupportedModelError
from bitbudget.app.core.export_target import Target
from bitbudget.app.core.exports.recipe import Change, Recipe, check_plain
from bitbudget.app.core.formats import KEEP, Format, Mode, parse_format
from bitbudget.app.core.inventory import Inventory, Module, ModuleKind
from bitbudget.app.core.manifest import Manifest

__all__ = ["auto_round_recipe"]

_WIDTHS: Final = (2, 3, 4, 8)
"""Bits that AutoRound's formats pack."""

_FLOATS: Final = {Mode.MXFP4: "mx_fp", Mode.MXFP8: "mx_fp", Mode.NVFP4: "nv_fp"}
_STACKED: Final = re.compile(r"\.mlp\.switch_mlp\.(gate_proj|up_proj|down_proj)$")
_USAGE: Final = "AutoRound(MODEL, layer_config=json.load(open(FILE)))"


def auto_round_recipe(manifest: Manifest, inventory: Inventory) -> Recipe:
    """Return `{layer: {"bits", "group_size", "sym", "data_type"}}` by the names of transformers.

    5 and 6 bits become 8; embeddings and what is quantized per head stay in 16 bits, which
    AutoRound never quantizes. Every expert of a stack is a layer of its own.

    Raises ConflictError for a rotated model, UnsupportedModelError for experts whose names in
    transformers are not known.
    """
    check_plain(manifest, Target.AUTO_ROUND)
    layers: dict[str, JsonObject] = {}
    changes, total = [], 0
    for path, choice in manifest.modules.items():
        module = inventory.module(path)
        stored = _stored(module, choice.format)
        there = choice.bytes
        if stored != choice.format:
            there = stored.data_bytes(module.shape, module.dtype)
            changes.append(Change(path, str(choice.format), str(stored), choice.bytes, there))
        total += there
        if module.kind is not ModuleKind.EMBEDDING:
            layers |= dict.fromkeys(_names(module, manifest.model.model_type), _scheme(stored))
    text = json.dumps(layers, indent=1) + "\n"
    return Recipe(Target.AUTO_ROUND, text, _USAGE, total, tuple(changes))


def _stored(module: Module, format_: Format) -> Format:
    if format_.mode is Mode.KEEP or module.kind in (ModuleKind.EMBEDDING, ModuleKind.MULTI_LINEAR):
        return KEEP
    if format_.mode in _FLOATS or format_.bits in _WIDTHS:
        return format_
    return parse_format(f"affine8g{format_.group_size}")


def _scheme(format_: Format) -> JsonObject:
    if format_.mode is Mode.KEEP:
        return {"bits": 16, "data_type": "float"}
    kind = _FLOATS.get(format_.mode, "int")
    return {
        "bits": format_.bits,
        "group_size": format_.group_size,
        "sym": kind != "int",
        "data_type": kind,
    }


def _names(module: Module, model_type: str) -> Iterator[str]:
    if module.kind is not ModuleKind.SWITCH_LINEAR:
        yield module.path
        return
    if not _STACKED.search(module.path):
        raise UnsupportedModelError(
            model_type=model_type,
            reason=f"transformers calls the experts of {module.path} otherwise",
            remedy="export for mlx-lm or llama.cpp",
        )
    for index in range(math.prod(module.shape[:-2])):
        yield _STACKED.sub(rf".mlp.experts.{index}.\1", module.path)
