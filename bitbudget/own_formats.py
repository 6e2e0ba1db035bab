"""Modules whose weights are in number formats of our own runtime, by our kernels or MLX operations.

This file stands by itself: it is part of bitbudget, and it is copied into every checkpoint that
needs it beside the `model_file` that reads it. On a GPU where the package `metal_kernels` is
installed products run in its kernels, those of many rows where that was faster when timed; else
weights are dequantized first. What the formats mean, with w the weight, q the code and everything
else stored for its group of columns:

    two    w = D c q - M m    `scales`: a byte, c low, m high; `spans`: bf16 D, M of 256 columns
    zero   w = s (q - z)      `scales`: bf16 s; `zero_points`: 4-bit z, two to a byte, first low
    sym    w = s (q - 128)    `scales`: bf16 s
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
from mlx import nn

try:
    from bitbudget import metal_kernels
except ImportError:  # a checkpoint on a machine without bitbudget
    metal_kernels = None  # type: ignore[assignment]

KEY = "bitbudget_formats"
VERSION = 1
PREFIX = "bitbudget.load:"
SPAN = 256
"""Columns that share D and M."""
MIDDLE = 128
"""The zero point of symmetric codes."""
FEW_ROWS = 8
"""Up to this many rows a product runs in the kernel: dequantizing would cost more than it."""
MANY_ROWS = 64
"""From this many rows a product runs in the tiled kernel where that beats dequantizing first."""
_UNPACKED = 32
"""A group size that divides every width: MLX unpacks codes as weights with a scale of one."""


class FormatError(ValueError):
    """config.json describes formats that this file cannot read."""


def own_paths(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the options of the modules in formats of our own, by path; often none.

    Raises FormatError for a version or a mode that this file does not know.
    """
    quantization = config.get("quantization") or {}
    found = {
        path: options
        for path, options in quantization.items()
        if isinstance(options, dict) and str(options.get("mode")).startswith(PREFIX)
    }
    if not found:
        return found
    version = (config.get(KEY) or {}).get("version")
    if version != VERSION:
        raise FormatError(f"version {version!r} of {KEY}, where this file knows {VERSION}")
    for path, options in found.items():
        if options["mode"].removeprefix(PREFIX) not in _SHAPES:
            raise FormatError(
                f"format {options['mode']!r} of {path}, which this file does not know"
            )
    return found


def _two_shapes(groups: tuple[int, ...], width: int) -> dict[str, tuple[tuple[int, ...], mx.Dtype]]:
    spans = (*groups[:-1], -(-width // SPAN), 2)
    return {"scales": (groups, mx.uint8), "spans": (spans, mx.bfloat16)}


def _zero_shapes(groups: tuple[int, ...], _: int) -> dict[str, tuple[tuple[int, ...], mx.Dtype]]:
    pairs = (*groups[:-1], -(-groups[-1] // 2))
    return {"scales": (groups, mx.bfloat16), "zero_points": (pairs, mx.uint8)}


def _sym_shapes(groups: tuple[int, ...], _: int) -> dict[str, tuple[tuple[int, ...], mx.Dtype]]:
    return {"scales": (groups, mx.bfloat16)}


_SHAPES: dict[str, Callable[..., dict[str, tuple[tuple[int, ...], mx.Dtype]]]] = {
    "two": _two_shapes,
    "zero": _zero_shapes,
    "sym": _sym_shapes,
}


def parameters(
    arrays: dict[str, mx.array], mode: str, group_size: int
) -> tuple[mx.array, mx.array]:
    """Return float32 scales and biases (..., groups): a group stands for scale * code + bias."""
    scales = arrays["scales"]
    if mode == "two":
        number = mx.arange(scales.shape[-1]) * group_size // SPAN
        spans = arrays["spans"].astype(mx.float32)[..., number, :]
        return spans[..., 0] * (scales & 15), -(spans[..., 1] * (scales >> 4))
    scales = scales.astype(mx.float32)
    if mode == "sym":
        return scales, -(scales * MIDDLE)
    return scales, -(scales * zero_points(arrays["zero_points"], scales.shape[-1]))


def zero_points(pairs: mx.array, groups: int) -> mx.array:
    """Return the zero points (..., groups) of which two are stored in a byte, the first low."""
    return mx.stack([pairs & 15, pairs >> 4], axis=-1).flatten(-2)[..., :groups]


def unpacked(packed: mx.array, bits: int) -> mx.array:
    """Return the codes (..., in) that lie in words of 32 bits, as float32."""
    shape = (*packed.shape[:-1], packed.shape[-1] * 32 // bits // _UNPACKED)
    ones, zeros = mx.ones(shape, mx.float32), mx.zeros(shape, mx.float32)
    codes: mx.array = mx.dequantize(packed, ones, zeros, group_size=_UNPACKED, bits=bits)
    return codes


def dequantize(arrays: dict[str, mx.array], mode: str, bits: int, group_size: int) -> mx.array:
    """Return the weight (..., in) that the stored arrays stand for; every step is in float32."""
    scales, biases = parameters(arrays, mode, group_size)
    grouped = mx.unflatten(unpacked(arrays["weight"], bits), -1, (-1, group_size))
    return (scales[..., None] * grouped + biases[..., None]).flatten(-2)


class OwnFormat(nn.Module):
    """What modules in our formats have in common: their arrays, and what these stand for.

    `rotate` is applied to inputs where a rotation runs before the product. `dtype` is that of the
    source weights.
    """

    def __init__(
        self, dense: nn.Module, *, mode: str, bits: int, group_size: int, dtype: mx.Dtype
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.mode, self.bits, self.group_size, self.dtype = (
            f"{PREFIX}{mode}",
            bits,
            group_size,
            dtype,
        )
        self._own_mode = mode
        *lead, width = dense["weight"].shape
        self.weight = mx.zeros((*lead, width * bits // 32), mx.uint32)
        shapes = _SHAPES[mode]((*lead, width // group_size), width)
        for name, (shape, kind) in shapes.items():
            self[name] = mx.zeros(shape, kind)
        self._names = ("weight", *shapes)
        if "bias" in dense:
            self.bias = dense["bias"]
        self.freeze()

    def dequantized(self, rows: mx.array | None = None) -> mx.array:
        """Return the float32 weight, or those of its first axis that `rows` names."""
        arrays = {name: self[name] if rows is None else self[name][rows] for name in self._names}
        return dequantize(arrays, self._own_mode, self.bits, self.group_size)

    def _kernel(self, rows: int, *, rotate: bool) -> tuple[str, dict[str, Any]] | None:
        """Return the kernel for a product of `rows`, with options; None for MLX operations."""
        if metal_kernels is None:
            return None
        how = {"layout": self._own_mode, "bits": self.bits, "group_size": self.group_size}
        how |= {"rotate": rotate}
        if rows <= FEW_ROWS:
            return ("own_qmv", how) if metal_kernels.own_qmv.runs else None
        order = metal_kernels.own_order(**how) if rows >= MANY_ROWS else None
        return None if order is None else ("own_qmm", how | {"order": order})

    def product(
        self, x: mx.array, rotate: Callable[[mx.array], mx.array] | None = None
    ) -> mx.array:
        """Return x W^T for `x` (..., K), rotated by the butterfly where `rotate` is given."""
        kernel = self._kernel(x.size // x.shape[-1], rotate=rotate is not None)
        if kernel is not None:
            name, options = kernel
            arrays = (x, self["weight"], self["scales"], self[self._names[-1]])
            product: mx.array = getattr(metal_kernels, name)(*arrays, **options)[0]
            return product
        x = x if rotate is None else rotate(x)
        return x @ self.dequantized().astype(x.dtype).T


class OwnLinear(OwnFormat):
    """`nn.Linear` in one of our formats."""

    rotate: Callable[[mx.array], mx.array] | None = None

    def __call__(self, x: mx.array) -> mx.array:
        """Return x W^T, plus the bias where there is one, for `x` (..., K)."""
        product = self.product(x, self.rotate)
        return product + self["bias"] if "bias" in self else product


class OwnEmbedding(OwnFormat):
    """`nn.Embedding` in one of our formats."""

    def __call__(self, x: mx.array) -> mx.array:
        """Return the rows that `x` names."""
        stored = next(self[name].dtype for name in self._names if self[name].dtype in _FLOATS)
        dtype = self.dtype if stored == mx.bfloat16 else stored
        return self.dequantized(x).astype(dtype)

    def as_linear(self, x: mx.array) -> mx.array:
        """Return x W^T, as a head that is tied to the embedding does."""
        return self.product(x)


class OwnSwitchLinear(OwnFormat):
    """mlx-lm's `SwitchLinear` in one of our formats. MLX gathers on a CPU in float32 alone."""

    def __call__(
        self,
        x: mx.array,
        indices: mx.array,
        sorted_indices: bool = False,  # noqa: FBT001, FBT002, as in mlx-lm
    ) -> mx.array:
        """Return each token's product with the experts that `indices` names."""
        kind = x.dtype if mx.metal.is_available() else mx.float32
        weight = self.dequantized().astype(kind).swapaxes(-1, -2)
        product = mx.gather_mm(
            x.astype(kind), weight, rhs_indices=indices, sorted_indices=sorted_indices
        ).astype(x.dtype)
        if "bias" in self:
            product = product + mx.expand_dims(self["bias"][indices], -2)
        return product


class OwnMultiLinear(OwnFormat):
    """mlx-lm's `MultiLinear`, a matrix for each head, in one of our formats."""

    def __call__(self, x: mx.array, transpose: bool = True) -> mx.array:  # noqa: FBT001, FBT002
        """Return each head's product, with the transposed matrix by default."""
        weight = self.dequantized().astype(x.dtype)
        return x @ (weight.swapaxes(-1, -2) if transpose else weight)


_FLOATS = (mx.bfloat16, mx.float16, mx.float32)
_DTYPES = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}
_BY_CLASS: dict[str, type[OwnFormat]] = {
    "SwitchLinear": OwnSwitchLinear,
    "MultiLinear": OwnMultiLinear,
}
"""Classes of mlx-lm by name; all of MLX's own are known by what they are."""


def _module(
    dense: nn.Module,
    dtype: mx.Dtype,
    rotate: Callable[[mx.array], mx.array] | None,
    *,
    group_size: int,
    bits: int,
    mode: str,
) -> OwnFormat:
    """Return what takes the place of a dense module: what `nn.quantize` calls as its method."""
    kind: type[OwnFormat] | None = _BY_CLASS.get(type(dense).__name__)
    if isinstance(dense, nn.Embedding):
        kind = OwnEmbedding
    elif isinstance(dense, nn.Linear):
        kind = OwnLinear
    if kind is None:
        raise FormatError(f"a {type(dense).__name__}, which has none of our formats")
    made = kind(
        dense, mode=mode.removeprefix(PREFIX), bits=bits, group_size=group_size, dtype=dtype
    )
    if isinstance(made, OwnLinear):
        made.rotate = rotate
    return made


def prepare(
    model: nn.Module,
    config: dict[str, Any],
    rotation_of: Callable[[nn.Module], Callable[[mx.array], mx.array] | None] = lambda _: None,
) -> nn.Module:
    """Make mlx-lm's loader quantize some modules of `model` to formats of our own.

    `rotation_of` tells what is applied to the input of a module before its product.
    """
    paths = own_paths(config)
    if not paths:
        return model
    dtype = _DTYPES[config[KEY].get("dtype", "bfloat16")]
    modules: dict[str, Any] = dict(model.named_modules())
    for path in paths:
        if path not in modules:
            raise FormatError(f"a format for {path!r}, which the model does not have")
        dense = modules[path]
        dense.to_quantized = partial(_module, dense, dtype, rotation_of(dense))
    return model


def dense_class(module: OwnFormat) -> Any:
    """Return the class that a module of ours stands for."""
    if isinstance(module, OwnSwitchLinear):
        return importlib.import_module("mlx_lm.models.switch_layers").SwitchLinear
    if isinstance(module, OwnMultiLinear):
        return importlib.import_module("mlx_lm.models.mla").MultiLinear
    return nn.Embedding if isinstance(module, OwnEmbedding) else nn.Linear
