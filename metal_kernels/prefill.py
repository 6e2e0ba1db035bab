"""Which way a product of many rows goes: our tiled kernel or two stock operations."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import lru_cache

import mlx.core as mx

from bitbudget.metal_kernels.blocks import butterfly
from bitbudget.metal_kernels.kernel import metal_available, self_test
from bitbudget.metal_kernels.rht_matmul import rht_qmm

__all__ = ["is_faster", "prefers_rht_qmm"]

_ROWS = 256
_WIDTH = 2048
_ROUNDS = 7


def is_faster(ours: Callable[[], mx.array], stock: Callable[[], mx.array]) -> bool:
    """Whether the median time of `ours` is below that of `stock`, run in turn after a warm-up."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS + 1):
        for engine, found in zip((ours, stock), seconds, strict=True):
            start = time.perf_counter()
            mx.eval(engine())
            found.append(time.perf_counter() - start)
    left, right = (statistics.median(found[1:]) for found in seconds)
    return left < right


@lru_cache
def prefers_rht_qmm(bits: int, group_size: int) -> bool:
    """Whether `rht_qmm` beats butterfly and `quantized_matmul` on this GPU, timed once a process.

    False without Metal, on the CPU, and where the kernel fails its self-test.
    """
    on_gpu = metal_available() and bool(mx.default_device() == mx.Device(mx.gpu))
    if not (on_gpu and self_test(rht_qmm).passed):
        return False
    keys = mx.random.split(mx.random.key(0))
    x = mx.random.normal((_ROWS, _WIDTH), key=keys[0]).astype(mx.bfloat16)
    weight = mx.random.normal((_WIDTH, _WIDTH), key=keys[1]).astype(mx.bfloat16)
    packed = mx.quantize(weight, group_size=group_size, bits=bits)
    mx.eval(x, packed)
    return is_faster(
        lambda: rht_qmm(x, *packed, bits=bits, group_size=group_size)[0],
        lambda: mx.quantized_matmul(
            butterfly(x).astype(x.dtype), *packed, bits=bits, group_size=group_size
        ),
    )
