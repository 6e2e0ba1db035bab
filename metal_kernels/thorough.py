"""Every case that the tests run on the emulator, so that a GPU can be asked the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import mlx.core as mx

from bitbudget.metal_kernels.attention_cases import attention_case
from bitbudget.metal_kernels.codes import CODE_BITS
from bitbudget.metal_kernels.kernel import TOLERANCE, Case, Kernel
from bitbudget.metal_kernels.own_matmul import LAYOUTS, own_case
from bitbudget.metal_kernels.rht_matmul import BITS, GROUP_SIZES, product_case

__all__ = ["thorough_cases"]

_DTYPES: Final = (mx.float32, mx.float16, mx.bfloat16)
_WIDTHS: Final = (32, 64, 96, 128, 640, 4128)
"""Below, at and above one pass of a threadgroup, and multiples of 32 that are no power of two."""
_ODD_SHAPES: Final = ((1, 1, 32), (2, 7, 64), (3, 9, 1152))
_WIDTH: Final = 512 + 128


def thorough_cases(kernel: Kernel) -> tuple[Case, ...]:
    """Return the self-test's cases and every dtype, width, format and odd shape of the kernel."""
    return (*kernel.cases(), *_MAKERS[kernel.name]())


def _random(dtype: mx.Dtype, *shape: int, seed: int = 0) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def _transform() -> Iterator[Case]:
    for dtype in _DTYPES:
        for width in _WIDTHS:
            x, diagonal = _random(dtype, 3, width), _random(mx.float32, width, seed=1)
            yield Case(f"{dtype} {width}", (x, diagonal), tolerance=TOLERANCE[dtype])


def _norm() -> Iterator[Case]:
    for case in _residual_norm():
        x, _, weight = case.arguments
        yield Case(case.name, (x, weight), case.options, case.tolerance)


def _residual_norm() -> Iterator[Case]:
    for dtype in _DTYPES:
        for width in _WIDTHS:
            x, residual = (_random(dtype, 2, width, seed=seed) for seed in (0, 1))
            arguments = (x, residual, _random(dtype, width, seed=2))
            yield Case(f"{dtype} {width}", arguments, {"eps": 1e-5}, TOLERANCE[dtype])


def _activation() -> Iterator[Case]:
    for dtype in _DTYPES:
        for activation in ("silu", "gelu_tanh"):
            gate, up = (_random(dtype, 3, 160, seed=seed) for seed in (0, 1))
            options = {"activation": activation}
            yield Case(f"{activation} {dtype}", (gate, up), options, TOLERANCE[dtype])


def _product() -> Iterator[Case]:
    for bits in BITS:
        for group in GROUP_SIZES:
            for dtype in (mx.float32, mx.bfloat16):
                yield product_case(dtype, bits, group, rows=2, outputs=11, width=_WIDTH)
    for rows, outputs, width in _ODD_SHAPES:
        yield product_case(mx.float32, 4, 32, rows=rows, outputs=outputs, width=width)
    for group in GROUP_SIZES:
        yield product_case(mx.float32, 4, group, rows=1, outputs=1, width=group)


def _sweep() -> Iterator[Case]:
    for dtype in _DTYPES:
        yield Case(f"{dtype}", (_random(dtype, 4, 256),), tolerance=TOLERANCE[mx.bfloat16])


def _attention() -> Iterator[Case]:
    for keys in CODE_BITS:
        for values in CODE_BITS:
            yield attention_case(mx.bfloat16, (keys, values), (128, 128), context=40, capacity=64)
    for width in (32, 64, 96, 160, 256, 512):
        for bits in CODE_BITS:
            yield attention_case(
                mx.float32, (bits, bits), (width, width), context=33, capacity=48, queries=2
            )
    for heads in ((1, 1), (5, 1), (8, 4), (32, 2)):
        for causal in (False, True):
            yield attention_case(
                mx.float32,
                (3, 4),
                (64, 32),
                heads=heads,
                queries=3,
                context=300,
                capacity=512,
                batch=2,
                causal=causal,
            )


def _own_product() -> Iterator[Case]:
    for dtype, (layout, (widths, sizes)) in zip(_DTYPES, LAYOUTS.items(), strict=True):
        yield own_case(layout, dtype, widths[0], sizes[0], rows=2, outputs=11, width=_WIDTH)
    for rows, outputs, width in _ODD_SHAPES:
        yield own_case("two", mx.float32, 3, 32, rows=rows, outputs=outputs, width=width)


_MAKERS: Final[dict[str, Callable[[], Iterator[Case]]]] = {
    "rht32": _transform,
    "rms_norm_rht": _norm,
    "residual_rms_norm_rht": _residual_norm,
    "swiglu_rht": _activation,
    "rht_qmv": _product,
    "rht_qmm": _product,
    "own_qmv": _own_product,
    "own_qmm": _own_product,
    "rd_sweep": _sweep,
    "turbo_attend": _attention,
}
