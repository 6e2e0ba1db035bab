"""Weights that MLX packed, as the dense weights that their codes stand for.

For users who have nothing else (`--allow-quantized-source`): the reference is then the quantized
model, and what is lost against the original before that is not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import mlx.core as mx

from bitbudget.workers.models.headers import SourceFile

__all__ = ["dequantized", "packed_weights"]

_SCALES: Final = ".scales"
_ONE_OF_A_KIND: Final = {(4, 16): "nvfp4", (4, 32): "mxfp4", (8, 32): "mxfp8"}
_CODE_BITS: Final = 32


def packed_weights(files: Iterable[SourceFile]) -> frozenset[str]:
    """Return the names of the weights that stand as codes beside scales."""
    names = {tensor.name for file in files for tensor in file.tensors}
    stems = (name.removesuffix(_SCALES) for name in names if name.endswith(_SCALES))
    return frozenset(f"{stem}.weight" for stem in stems if f"{stem}.weight" in names)


def dequantized(
    arrays: Mapping[str, mx.array], packed: frozenset[str], config: Mapping[str, Any]
) -> dict[str, mx.array]:
    """Return dense arrays, lazily: bf16 for float formats, the type of the scales for affine ones.

    `config` is the source's own: its `quantization` tells bits and group sizes.
    """
    found = dict(arrays)
    for name in packed:
        stem = name.removesuffix(".weight")
        codes, scales = found.pop(name), found.pop(f"{stem}{_SCALES}")
        biases = found.pop(f"{stem}.biases", None)
        bits, group_size = _widths(stem, codes, scales, config)
        mode = "affine" if biases is not None else _ONE_OF_A_KIND[bits, group_size]
        dense = mx.dequantize(codes, scales, biases, group_size=group_size, bits=bits, mode=mode)
        found[name] = dense if biases is not None else dense.astype(mx.bfloat16)
    return found


def _widths(
    stem: str, codes: mx.array, scales: mx.array, config: Mapping[str, Any]
) -> tuple[int, int]:
    """Return bits and group size, from what the source says of this module or of all."""
    quantization = config.get("quantization") or config.get("quantization_config") or {}
    own = quantization.get(stem)
    stated = own if isinstance(own, dict) else quantization
    bits = int(stated.get("bits", 4))
    return bits, codes.shape[-1] * _CODE_BITS // bits // scales.shape[-1]
