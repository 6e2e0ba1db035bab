"""A manifest as the `--tensor-type-file` of llama.cpp's llama-quantize."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bitbudget.app.core.export_target import Target
from bitbudget.app.core.exports.recipe import Change, Recipe, check_plain
from bitbudget.app.core.formats import KEEP, Format, Mode
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.manifest import Manifest

__all__ = ["GgmlType", "llama_cpp_recipe", "nearest_type"]


@dataclass(frozen=True, slots=True)
class GgmlType:
    """A tensor type of ggml: so many bytes for a block of weights (`ggml-common.h`)."""

    name: str
    block: int
    nbytes: int

    def data_bytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of a tensor of `shape` (..., in)."""
        return math.prod(shape) // self.block * self.nbytes


_BF16: Final = GgmlType("bf16", 1, 2)
_F32: Final = GgmlType("f32", 1, 4)
_Q4_0: Final = GgmlType("q4_0", 32, 18)
_Q5_0: Final = GgmlType("q5_0", 32, 22)
_Q8_0: Final = GgmlType("q8_0", 32, 34)
_MXFP4: Final = GgmlType("mxfp4", 32, 17)
_SUPER: Final = {
    2: GgmlType("q2_K", 256, 84),
    3: GgmlType("q3_K", 256, 110),
    4: GgmlType("q4_K", 256, 144),
    5: GgmlType("q5_K", 256, 176),
    6: GgmlType("q6_K", 256, 210),
    8: _Q8_0,
}
_SMALL: Final = {2: _Q4_0, 3: _Q4_0, 4: _Q4_0, 5: _Q5_0, 6: _Q8_0, 8: _Q8_0}
"""For widths that 256 does not divide; llama.cpp has no smaller type of 2 or 3 bits for them."""

_USAGE: Final = "llama-quantize --tensor-type-file FILE MODEL-bf16.gguf OUT.gguf Q4_K"
_NEVER: Final = re.compile(r"ffn_gate_inp|_norm|ssm_conv1d|shortconv\.conv")
"""Tensors that llama.cpp's converter writes in float32 and llama-quantize leaves so."""


def nearest_type(format_: Format, width: int) -> GgmlType:
    """Return the type of as many bits for a tensor `width` inputs wide, or of the next more."""
    if format_.mode is Mode.KEEP:
        return _BF16
    if format_.mode is Mode.MXFP4:
        return _MXFP4
    table = _SMALL if width % _SUPER[4].block else _SUPER
    return table[format_.bits]


def llama_cpp_recipe(
    manifest: Manifest, inventory: Inventory, tensor_name: Callable[[str], str]
) -> Recipe:
    """Return one line `^tensor name$=type` for each module.

    `tensor_name` gives the name of a module's weight in a GGUF. No affine group of MLX is a block
    of llama.cpp, so each becomes the type of as many bits: k-quants where 256 divides the width.

    Raises ConflictError for a rotated model, KeyError for a module that `inventory` lacks.
    """
    check_plain(manifest, Target.LLAMA_CPP)
    lines, changes, total = [], [], 0
    for path, choice in manifest.modules.items():
        module = inventory.module(path)
        name = tensor_name(path)
        type_ = _stored(module, choice.format, name)
        there = type_.data_bytes(module.shape)
        total += there
        is_kept = choice.format == KEEP and type_ is _BF16
        if not is_kept and str(choice.format) != type_.name:
            changes.append(Change(path, str(choice.format), type_.name, choice.bytes, there))
        lines.append(f"^{re.escape(name).lower()}$={type_.name}\n")
    return Recipe(Target.LLAMA_CPP, "".join(lines), _USAGE, total, tuple(changes))


def _stored(module: Module, format_: Format, name: str) -> GgmlType:
    return _F32 if _NEVER.search(name) else nearest_type(format_, module.shape[-1])
