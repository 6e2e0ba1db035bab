"""Dense weights from the codes and scales of each packed layout, lazily and by MLX's own kernels.

Each function takes the arrays of one weight by the ending of their names, and `Settings`, and
returns the weight, (out, in) or with leading axes of experts. Integers are unpacked by
`mx.dequantize`, whose words hold one stream of bits, lowest first, as those of GPTQ and
compressed-tensors do. Arithmetic is in float32; the result has the type of the scales where that is
a 16-bit float, else bf16.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import mlx.core as mx

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.dtypes import Dtype
from bitbudget.workers.files.layouts import SCALE, Coding

__all__ = [
    "DECODERS",
    "Decoder",
    "Parts",
    "Settings",
    "awq",
    "compressed_tensors",
    "gptq",
    "mlx",
    "modelopt",
    "mxfp4_blocks",
    "scaled_8_bits",
]

Parts = Mapping[str, mx.array]
"""Arrays of one weight by the ending of their names."""

_ONE_OF_A_KIND: Final = {(4, 16): "nvfp4", (4, 32): "mxfp4", (8, 32): "mxfp8"}
_WORD_BITS: Final = 32
_GROUP: Final = 32
_BLOCK: Final = 128
_EXPONENT_SHIFT: Final = 23
"""Where the exponent of a float32 starts, which E8M0 stores alone."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a packed weight's name and the configuration tell: `stored` has types by ending."""

    stem: str
    quantization: JsonObject
    stored: Mapping[str, Dtype]

    @property
    def bits(self) -> int:
        """Bits of a code: this module's own, or those of all."""
        own = self.quantization.get(self.stem)
        stated = own if isinstance(own, dict) else self.quantization
        groups = self.quantization.get("config_groups")
        if not isinstance(groups, dict):
            return int(stated.get("bits", 4))
        widths = {group["weights"]["num_bits"] for group in groups.values() if group.get("weights")}
        if len(widths) != 1:
            msg = f"config_groups of {sorted(widths)} bits, where one width is read"
            raise ValueError(msg)
        return int(widths.pop())


Decoder = Callable[[Parts, Settings], mx.array]


def mlx(parts: Parts, settings: Settings) -> mx.array:
    """Decode what `mx.quantize` packed: affine codes, MXFP4, NVFP4 or MXFP8."""
    codes, scales, biases = parts[".weight"], parts[".scales"], parts.get(".biases")
    bits = settings.bits
    group_size = codes.shape[-1] * _WORD_BITS // bits // scales.shape[-1]
    mode = "affine" if biases is not None else _ONE_OF_A_KIND[bits, group_size]
    dense = mx.dequantize(codes, scales, biases, group_size=group_size, bits=bits, mode=mode)
    return dense if biases is not None else dense.astype(mx.bfloat16)


def gptq(parts: Parts, settings: Settings) -> mx.array:
    """Decode GPTQ: words (in * bits / 32, out), zeros less one unless `gptq_v2` is stated."""
    index = parts.get(".g_idx")
    words = mx.contiguous(parts[".qweight"].swapaxes(-1, -2))
    bits = settings.bits if index is None else words.shape[-1] * _WORD_BITS // index.shape[-1]
    zeros = _integers(parts[".qzeros"], bits).swapaxes(-1, -2)
    if settings.quantization.get("checkpoint_format") != "gptq_v2":
        zeros = mx.remainder(zeros + 1, 2**bits)
    return _affine(_integers(words, bits), parts[".scales"].swapaxes(-1, -2), zeros, index)


def awq(parts: Parts, settings: Settings) -> mx.array:
    """Decode AWQ as stock mlx-lm does when it loads: its own transformation, then MLX's kernel."""
    transform = importlib.import_module("mlx_lm.utils")._transform_awq_weights  # noqa: SLF001
    scales = parts[".scales"]
    words = {f"module{ending}": array for ending, array in parts.items()}
    found, _ = transform(words, {"bits": settings.bits, "group_size": 0})
    group_size = parts[".qweight"].shape[-2] // scales.shape[-2]
    codes, biases = found["module.weight"], found["module.biases"]
    return mx.dequantize(
        codes, found["module.scales"], biases, group_size=group_size, bits=settings.bits
    )


def compressed_tensors(parts: Parts, settings: Settings) -> mx.array:
    """Decode `pack-quantized` integers, and `nvfp4-` and `mxfp4-pack-quantized` floats."""
    words, scales = parts[".weight_packed"], parts[".weight_scale"]
    if settings.stored[".weight_packed"] is Dtype.U8:
        dense = _four_bit_floats(words, scales)
        scale = parts.get(".weight_global_scale")
        return (dense if scale is None else dense / scale).astype(mx.bfloat16)
    bits = settings.bits
    zeros: mx.array | int = 2 ** (bits - 1)
    if ".weight_zero_point" in parts:
        packed = mx.contiguous(parts[".weight_zero_point"].swapaxes(-1, -2))
        zeros = _integers(packed, bits).swapaxes(-1, -2)[..., : scales.shape[-2], :]
    return _affine(_integers(words, bits), scales, zeros, parts.get(".weight_g_idx"))


def modelopt(parts: Parts, _: Settings) -> mx.array:
    """Decode ModelOpt's NVFP4: scales of 16 weights in E4M3, times one of the whole tensor."""
    dense = _four_bit_floats(parts[".weight"], parts[".weight_scale"])
    return (dense * parts[".weight_scale_2"]).astype(mx.bfloat16)


def mxfp4_blocks(parts: Parts, _: Settings) -> mx.array:
    """Decode the experts of gpt-oss: blocks (experts, out, in / 32, 16) of two codes a byte."""
    words = parts["_blocks"].flatten(-2)
    return _four_bit_floats(words, parts["_scales"]).astype(mx.bfloat16)


def scaled_8_bits(parts: Parts, settings: Settings) -> mx.array:
    """Decode 8-bit integers or floats, times a scale per tensor, row, group of columns or block.

    Block sizes are those that `weight_block_size` states, else what the shapes divide into.
    """
    name, codes = next(iter(parts.items()))
    dense = _numbers(codes, settings.stored[name])
    known = next((e for e in (".weight_scale", SCALE) if e in parts), None)
    if known is None:
        return dense.astype(mx.bfloat16)
    if ".weight_zero_point" in parts:
        dense = dense - _spread(parts[".weight_zero_point"].astype(mx.float32), dense.shape)
    scale = parts[known]
    if settings.stored[known] is Dtype.F8_E8M0:
        scale = (scale.astype(mx.int32) << _EXPONENT_SHIFT).view(mx.float32)
    stated = settings.quantization.get("weight_block_size")
    dense = dense * _spread(scale.astype(mx.float32), dense.shape, stated)
    return dense.astype(_narrow(scale))


def _numbers(codes: mx.array, stored: Dtype) -> mx.array:
    if stored is Dtype.F8_E4M3:
        return mx.from_fp8(codes, dtype=mx.float32)
    if stored is Dtype.F8_E5M2:  # the upper byte of a float16
        return (codes.astype(mx.uint16) << 8).view(mx.float16).astype(mx.float32)
    return codes.astype(mx.float32)


def _integers(words: mx.array, bits: int) -> mx.array:
    """Unpack words (..., n * bits / 32) to float32 (..., n)."""
    words = words.view(mx.uint32)
    groups = (*words.shape[:-1], words.shape[-1] * _WORD_BITS // bits // _GROUP)
    ones, none = mx.ones(groups), mx.zeros(groups)
    return mx.dequantize(words, ones, none, group_size=_GROUP, bits=bits)


def _affine(
    codes: mx.array, scales: mx.array, zeros: mx.array | int, index: mx.array | None
) -> mx.array:
    """Return (codes - zeros) * scales; `index` (in,) names each column's group."""
    columns = codes.shape[-1]
    if index is None:
        index = mx.arange(columns) // (columns // scales.shape[-1])
    index = index.astype(mx.int32)
    if isinstance(zeros, mx.array):
        zeros = mx.take(zeros, index, axis=-1)
    spread = mx.take(scales.astype(mx.float32), index, axis=-1)
    return ((codes - zeros) * spread).astype(_narrow(scales))


def _four_bit_floats(words: mx.array, scales: mx.array) -> mx.array:
    """Decode E2M1 codes; a scale of 16 of them is E4M3 (NVFP4), of 32 a power of two (MXFP4)."""
    group_size = words.shape[-1] * 2 // scales.shape[-1]
    mode = _ONE_OF_A_KIND[4, group_size]
    return mx.dequantize(
        mx.contiguous(words).view(mx.uint32),
        scales,
        group_size=group_size,
        bits=4,
        mode=mode,
        dtype=mx.float32,
    )


def _spread(scale: mx.array, shape: tuple[int, ...], stated: object = None) -> mx.array:
    """Repeat scales along each axis to `shape`; a single value stays one."""
    if scale.size == 1:
        return scale.reshape(())
    scale = scale.reshape(*scale.shape, *(1,) * (len(shape) - scale.ndim))
    sizes = stated if isinstance(stated, list) else [_BLOCK, _BLOCK]
    blocks = [1] * (len(shape) - len(sizes)) + [int(size) for size in sizes]
    for axis, (length, block) in enumerate(zip(shape, blocks, strict=True)):
        count = scale.shape[axis]
        if count in (1, length):
            continue
        fits = -(-length // block) == count
        scale = mx.repeat(scale, block if fits else length // count, axis=axis)
        scale = scale[(*(slice(None),) * axis, slice(length))]
    return scale


def _narrow(scale: mx.array) -> mx.Dtype:
    return mx.float16 if scale.dtype == mx.float16 else mx.bfloat16


DECODERS: Final[Mapping[Coding, Decoder]] = {
    Coding.GPTQ: gptq,
    Coding.AWQ: awq,
    Coding.COMPRESSED_TENSORS: compressed_tensors,
    Coding.MODELOPT: modelopt,
    Coding.MXFP4_BLOCKS: mxfp4_blocks,
    Coding.MLX: mlx,
    Coding.SCALED_8_BITS: scaled_8_bits,
}
