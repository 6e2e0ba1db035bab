"""Which way a product of many rows goes: our tiled kernel, in which order, or stock operations."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import mlx.core as mx

from bitbudget.metal_kernels.blocks import butterfly
from bitbudget.metal_kernels.kernel import Kernel
from bitbudget.metal_kernels.own_matmul import dequantized, own_case, own_qmm
from bitbudget.metal_kernels.own_matmul import product as own_product
from bitbudget.metal_kernels.products import Order
from bitbudget.metal_kernels.rht_matmul import rht_qmm

__all__ = ["STOCK", "fastest", "order_of", "own_order", "rht_order", "seconds_in_turn"]

STOCK: Final = "stock"
"""The name of stock operations among what is timed; ours have those of their orders."""
_ROWS: Final = 256
_WIDTH: Final = 2048
_ROUNDS: Final = 7

Engine = Callable[[], mx.array]


def fastest(seconds: Mapping[str, Sequence[float]]) -> str:
    """Return the name whose median is least, of equal ones the first."""
    return min(seconds, key=lambda name: statistics.median(seconds[name]))


def order_of(seconds: Mapping[str, Sequence[float]]) -> Order | None:
    """Return the order in which our kernel beats stock operations; None where they win or tie.

    `seconds` are those of `STOCK` and of each order.
    """
    name = fastest({STOCK: seconds[STOCK], **seconds})
    return None if name == STOCK else Order(name)


def seconds_in_turn(engines: Mapping[str, Engine]) -> dict[str, list[float]]:
    """Return the times of seven runs of each engine, run in turn after a warm-up."""
    found: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(_ROUNDS + 1):
        for name, engine in engines.items():
            start = time.perf_counter()
            mx.eval(engine())
            found[name].append(time.perf_counter() - start)
    return {name: times[1:] for name, times in found.items()}


@lru_cache
def rht_order(bits: int, group_size: int) -> Order | None:
    """Return in which order `rht_qmm` beats butterfly and `quantized_matmul` on this GPU.

    Timed once a process. None where it does not, without Metal, on the CPU, and where the kernel
    fails its self-test.
    """
    if not rht_qmm.runs:
        return None
    keys = mx.random.split(mx.random.key(0))
    x = mx.random.normal((_ROWS, _WIDTH), key=keys[0]).astype(mx.bfloat16)
    weight = mx.random.normal((_WIDTH, _WIDTH), key=keys[1]).astype(mx.bfloat16)
    packed = mx.quantize(weight, group_size=group_size, bits=bits)
    mx.eval(x, packed)
    options: dict[str, Any] = {"group_size": group_size, "bits": bits}
    return _timed(
        rht_qmm,
        (x, *packed),
        options,
        lambda: mx.quantized_matmul(butterfly(x).astype(x.dtype), *packed, **options),
    )


@lru_cache
def own_order(layout: str, bits: int, group_size: int, *, rotate: bool) -> Order | None:
    """As `rht_order`, of `own_qmm` against dequantizing the weight for a stock product."""
    if not own_qmm.runs:
        return None
    shape = {"rows": _ROWS, "outputs": _WIDTH, "width": _WIDTH}
    x, *arrays = own_case(layout, mx.bfloat16, bits, group_size, **shape).arguments
    mx.eval(x, arrays)
    options: dict[str, Any] = {"bits": bits, "group_size": group_size, "layout": layout}
    options["rotate"] = rotate

    def stock() -> mx.array:
        left = butterfly(x).astype(x.dtype) if rotate else x
        return left @ dequantized(own_product(x, *arrays, **options)).astype(x.dtype).T

    return _timed(own_qmm, (x, *arrays), options, stock)


def _timed(
    kernel: Kernel, arrays: Sequence[mx.array], options: Mapping[str, Any], stock: Engine
) -> Order | None:
    def ours(order: Order) -> Engine:
        return lambda: kernel(*arrays, **options, order=order)[0]

    return order_of(seconds_in_turn({STOCK: stock} | {order: ours(order) for order in Order}))
