"""The inventory of a checkpoint, taken from its mlx-lm model class."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any, Final

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import InvalidModelError, UnsupportedModelError
from bitbudget.app.core.inventory import Inventory, Module, ModuleKind, StoredArray
from bitbudget.workers.files.dimensions import architecture_of, stated_layers
from bitbudget.workers.models.arrays import dtype_of
from bitbudget.workers.models.checkpoint import Checkpoint
from bitbudget.workers.models.trace import Trace, trace_model

__all__ = ["build_inventory", "flat", "quantizable_modules"]

_LAYER: Final = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)(?:\.|$)")


def build_inventory(checkpoint: Checkpoint) -> Inventory:
    """Return every module and array of the checkpoint, in the order of its layers.

    Shapes, dtypes, stacking and ties are those of the model after `sanitize`; the model's own
    `quant_predicate` is kept as a floor. No weight is read.

    Raises InvalidModelError when weights are missing, unexpected or of another shape, and
    UnsupportedModelError when a forward pass cannot be made.
    """
    model = checkpoint.model_outline()
    trace = trace_model(model)
    if trace.failure:
        raise UnsupportedModelError(
            model_type=checkpoint.config["model_type"],
            reason=f"mlx-lm cannot run it here ({trace.failure})",
            remedy="check config.json against the weights, or run on a Mac with Metal",
        )
    found = list(quantizable_modules(model))
    first: dict[int, str] = {}
    for path, module in found:
        first.setdefault(id(module), path)
    modules = tuple(
        _module(path, module, model, trace, first[id(module)]) for path, module in found
    )
    stored = {f"{module.path}.weight" for module in modules}
    passthrough = tuple(
        StoredArray(name, dtype_of(array), tuple(array.shape))
        for name, array in flat(model.parameters())
        if name not in stored
    )
    layers = _layers(model, checkpoint.config)
    architecture = architecture_of(checkpoint.config, modules, layers, trace.cache)
    return Inventory(architecture, modules, passthrough, checkpoint.dropped, checkpoint.renamed)


def quantizable_modules(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield path and module of every leaf that `nn.quantize` would ask `to_quantized` of."""
    for path, module in flat(model.leaf_modules(), is_leaf=nn.Module.is_module):
        if hasattr(module, "to_quantized"):
            yield path, module


def flat(tree: Any, **options: Any) -> list[tuple[str, Any]]:
    """Return the leaves of a tree of parameters or modules by their dotted paths."""
    return list(tree_flatten(tree, **options))  # type: ignore[arg-type]


def _module(path: str, module: Any, model: nn.Module, trace: Trace, first_path: str) -> Module:
    if not mx.issubdtype(module.weight.dtype, mx.floating):
        raise InvalidModelError(
            where=f"{path}.weight",
            found=f"a weight of {dtype_of(module.weight)}",
            expected="floating-point numbers",
            remedy="start from the original bf16, fp16 or fp32 checkpoint",
        )
    quantizable, floor_bits = _wish(model, path, module)
    quantizable = quantizable and id(module) not in trace.read_raw
    layer = _LAYER.search(path)
    return Module(
        path=path,
        kind=_kind(module),
        shape=tuple(module.weight.shape),
        dtype=dtype_of(module.weight),
        decision_group=first_path,
        layer=int(layer[1]) if layer else None,
        experts_per_token=trace.experts_per_token.get(id(module), 0),
        is_tied_head=id(module) in trace.tied_heads,
        quantizable=quantizable,
        floor_bits=floor_bits,
    )


def _kind(module: Any) -> ModuleKind:
    switch_linear = importlib.import_module("mlx_lm.models.switch_layers").SwitchLinear
    if isinstance(module, nn.Embedding):
        return ModuleKind.EMBEDDING
    if isinstance(module, switch_linear):
        return ModuleKind.SWITCH_LINEAR
    return ModuleKind.LINEAR if module.weight.ndim == 2 else ModuleKind.MULTI_LINEAR  # noqa: PLR2004


def _wish(model: nn.Module, path: str, module: Any) -> tuple[bool, int]:
    """Return whether the model lets this module be quantized, and the bits it asks for.

    `nn.quantize` passes a mode: a class whose `to_quantized` takes none cannot be quantized by it.
    """
    if "mode" not in inspect.signature(module.to_quantized).parameters:
        return False, 0
    predicate = getattr(model, "quant_predicate", None)
    wish = True if predicate is None else predicate(path, module)
    if isinstance(wish, dict):
        return True, int(wish.get("bits", 0))
    return bool(wish), 0


def _layers(model: nn.Module, config: JsonObject) -> int:
    layers = getattr(model, "layers", None)
    return stated_layers(config) if layers is None else len(layers)
