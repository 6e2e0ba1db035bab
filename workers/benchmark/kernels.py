"""Each Metal kernel against its reference and against stock MLX operations, on a Mac's GPU."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import mlx.core as mx

from bitbudget.app.core.canonical import JsonObject
from bitbudget.metal_kernels import (
    KERNELS,
    Order,
    metal_available,
    own_qmm,
    residual_rms_norm_rht,
    rht_qmm,
    rht_qmv,
    swiglu_rht,
    turbo_attend,
)
from bitbudget.metal_kernels.attention_cases import attention_case
from bitbudget.metal_kernels.own_matmul import dequantized, own_case, product
from bitbudget.metal_kernels.prefill import STOCK, fastest
from bitbudget.metal_kernels.thorough import thorough_cases
from bitbudget.metal_kernels.turbo_attend import dequantized as dense_cache
from bitbudget.metal_kernels.turbo_attend import joined

__all__ = ["benchmark_kernels", "timing"]

_COLD_BYTES: Final = 256 * 2**20
_ROUNDS: Final = 20
_WIDTH: Final = 4096
_EPS: Final = 1e-6
_CONTEXT: Final = 8192
_PROMPT: Final = 512
_OURS: Final = "ours"

Inputs = tuple[mx.array, ...]
Engine = Callable[..., Any]


@dataclass(frozen=True)
class _Contest:
    """One of our kernels and the stock operations it replaces, on the same inputs.

    `inputs` makes an input set from a seed; those of many seeds exceed every cache together. A
    tiled kernel runs in each of its `orders`.
    """

    name: str
    ours: Engine
    stock: Engine
    inputs: Callable[[int], Inputs]
    orders: tuple[Order, ...] = ()

    def engines(self) -> dict[str, Engine]:
        """Return what is timed: stock operations, and ours or ours in every order."""
        ours: dict[str, Engine] = {o: partial(self.ours, order=o) for o in self.orders}
        return {STOCK: self.stock} | (ours or {_OURS: self.ours})


def _seconds(engine: Engine, inputs: Inputs) -> float:
    start = time.perf_counter()
    mx.eval(engine(*inputs))
    return time.perf_counter() - start


def _run(contest: _Contest) -> JsonObject:
    first = contest.inputs(0)
    size = sum(array.nbytes for array in first)
    copies = [first, *(contest.inputs(seed) for seed in range(1, max(2, _COLD_BYTES // size)))]
    mx.eval(copies)
    engines = {name: mx.compile(engine) for name, engine in contest.engines().items()}
    for engine in engines.values():
        _seconds(engine, first)
    timings: dict[str, list[float]] = {name: [] for name in engines}
    for inputs in itertools.islice(itertools.cycle(copies), _ROUNDS):
        for name, engine in engines.items():
            timings[name].append(_seconds(engine, inputs))
    return timing(size, timings)


def timing(input_bytes: int, seconds: Mapping[str, Sequence[float]]) -> JsonObject:
    """Return what is reported of the times of stock operations and of ours, by order or not.

    Ours are those of the order that was fastest here.
    """
    ours = {name: times for name, times in seconds.items() if name != STOCK}
    best = fastest(ours)
    return {
        "input_bytes": input_bytes,
        "ours_seconds": statistics.median(ours[best]),
        "stock_seconds": statistics.median(seconds[STOCK]),
        "order": None if best == _OURS else str(best),
    }


def _quantized(seed: int, rows: int) -> Inputs:
    keys = mx.random.split(mx.random.key(seed))
    weight = mx.random.normal((_WIDTH, _WIDTH), key=keys[0]).astype(mx.bfloat16)
    x = mx.random.normal((rows, _WIDTH), key=keys[1]).astype(mx.bfloat16)
    return (x, *mx.quantize(weight, group_size=64, bits=4))


def _rows(seed: int, count: int, rows: int = 1) -> Inputs:
    keys = mx.random.split(mx.random.key(seed), count)
    return tuple(mx.random.normal((rows, _WIDTH), key=key).astype(mx.bfloat16) for key in keys)


def _stock_product(x: mx.array, w: mx.array, scales: mx.array, biases: mx.array) -> mx.array:
    return mx.quantized_matmul(x, w, scales, biases, group_size=64, bits=4)


def _own(seed: int) -> Inputs:
    case = own_case("two", mx.bfloat16, 4, 16, rows=_PROMPT, outputs=_WIDTH, width=_WIDTH)
    x = mx.random.normal((_PROMPT, _WIDTH), key=mx.random.key(seed)).astype(mx.bfloat16)
    return (x, *(mx.array(array) for array in case.arguments[1:]))


def _own_product(*inputs: mx.array, order: Order) -> Sequence[mx.array]:
    return own_qmm(*inputs, bits=4, group_size=16, layout="two", order=order)


def _dequantized_product(*inputs: mx.array) -> mx.array:
    weight = dequantized(product(*inputs, bits=4, group_size=16, layout="two"))
    return inputs[0] @ weight.astype(inputs[0].dtype).T


def _stock_norm(x: mx.array, residual: mx.array, weight: mx.array) -> Sequence[mx.array]:
    added = x + residual
    return added, mx.fast.rms_norm(added, weight[0], _EPS)


def _stock_activation(gate: mx.array, up: mx.array) -> mx.array:
    return gate * mx.sigmoid(gate) * up


def _attention(seed: int) -> Inputs:
    """Return 4-bit codes of 8 key heads of 128 channels at 8,192 tokens, and 32 queries."""
    case = attention_case(
        mx.bfloat16,
        (4, 4),
        (128, 128),
        heads=(32, 8),
        context=_CONTEXT,
        capacity=_CONTEXT,
        seed=seed,
    )
    return case.arguments


def _packed_attention(*inputs: mx.array) -> mx.array:
    return joined(*turbo_attend(*inputs, key_bits=4, value_bits=4, scale=128**-0.5))


def _stock_attention(queries: mx.array, *stored: mx.array) -> mx.array:
    keys, key_scales, values, value_scales, books, _ = stored
    dense = (
        dense_cache(codes, scales, book, 4).astype(queries.dtype)
        for codes, scales, book in ((keys, key_scales, books[0]), (values, value_scales, books[1]))
    )
    return mx.fast.scaled_dot_product_attention(queries, *dense, scale=128**-0.5)


_CONTESTS: Final = (
    _Contest(
        "rht_qmv",
        lambda *inputs: rht_qmv(*inputs, bits=4, group_size=64),
        _stock_product,
        lambda seed: _quantized(seed, 1),
    ),
    _Contest(
        "rht_qmm",
        lambda *inputs, order: rht_qmm(*inputs, bits=4, group_size=64, order=order),
        _stock_product,
        lambda seed: _quantized(seed, _PROMPT),
        tuple(Order),
    ),
    _Contest("own_qmm", _own_product, _dequantized_product, _own, tuple(Order)),
    _Contest(
        "residual_rms_norm_rht",
        lambda x, residual, weight: residual_rms_norm_rht(x, residual, weight[0], eps=_EPS),
        _stock_norm,
        lambda seed: _rows(seed, 3),
    ),
    _Contest("swiglu_rht", swiglu_rht, _stock_activation, lambda seed: _rows(seed, 2)),
    _Contest("turbo_attend", _packed_attention, _stock_attention, _attention),
)


def benchmark_kernels() -> JsonObject:
    """Check every kernel on this GPU and time those that replace stock operations.

    The checks are all cases that the tests run on the emulator.

    Timings are medians over cold inputs, ours and stock in turn; of a tiled product ours are those
    of the threadgroup order that is faster here. Without Metal the reason is all
    there is: no timing is made up.
    """
    if not metal_available():
        return {"available": False, "reason": "Metal is not available on this machine"}
    checks = {}
    for kernel in KERNELS:
        report = kernel.check(lambda launch: tuple(launch.run()), thorough_cases(kernel))
        checks[kernel.name] = {
            "passed": report.passed,
            "worst_error": report.worst_error,
            "detail": report.detail,
        }
    timings = {contest.name: _run(contest) for contest in _CONTESTS}
    return {"available": True, "checks": checks, "timings": timings}
