"""Attention, SwiGLU and softmax with NumPy's exponentials: on a CPU MLX takes ten times as long.

Measured on one thread of an Intel Xeon with AVX-512: 13.7 ns for an exponential of MLX's CPU build,
0.5 ns for one of NumPy's. Attention and SwiGLU have a gradient. All compute at once what MLX would
compute when it is asked for, so that they are put in place only where everything is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx_lm.models import activations, base

from bitbudget.workers.running.device import on_gpu

__all__ = ["as_stock", "by_numpy", "softmax"]

_CHUNK: Final = 1 << 15
"""Elements at a time of an activation (128 KiB in float32), which stay in a core's cache."""
_ROWS: Final = 64
"""Queries at a time of a causal mask: what lies after the last of them takes no exponential."""

Function = Callable[..., mx.array]
_swiglu_of_stock: Final[Function] = activations.swiglu
_attention_of_stock: Final[Function] = base.scaled_dot_product_attention


@contextmanager
def by_numpy() -> Iterator[None]:
    """Let mlx-lm's models compute attention and SwiGLU with NumPy, where MLX computes on a CPU.

    Float32 alone; what is not known here is left to MLX.
    """
    if on_gpu():
        yield
        return
    with _replaced({_swiglu_of_stock: _swiglu, _attention_of_stock: _attention}):
        yield


@contextmanager
def as_stock() -> Iterator[None]:
    """Undo `by_numpy` for a while: nothing is computed before it is asked for."""
    with _replaced({_swiglu: _swiglu_of_stock, _attention: _attention_of_stock}):
        yield


@contextmanager
def _replaced(functions: Mapping[Function, Function]) -> Iterator[None]:
    by_identity = {id(old): new for old, new in functions.items()}
    places = [
        (vars(module), name, by_identity[id(value)], value)
        for key, module in list(sys.modules.items())
        if key.startswith("mlx_lm.models.")
        for name, value in list(vars(module).items())
        if id(value) in by_identity
    ]
    for names, name, new, _ in places:
        names[name] = new
    try:
        yield
    finally:
        for names, name, _, old in places:
            names[name] = old


def softmax(scores: mx.array) -> mx.array:
    """Return the softmax of float32 (..., n) over the last axis; no gradient passes through it."""
    if on_gpu():
        return mx.stop_gradient(mx.softmax(scores, axis=-1, precise=True))
    found = np.array(scores)
    for some in _chunks(found.reshape(-1, found.shape[-1])):
        _normalize(some)
    return mx.array(found)


def _swiglu(gate: mx.array, x: mx.array) -> mx.array:
    """Return silu(gate) * x, as mlx-lm's function of this name."""
    if gate.dtype != mx.float32 or x.dtype != mx.float32 or gate.shape != x.shape:
        return _swiglu_of_stock(gate, x)
    silu: Any = _silu
    found: mx.array = silu(gate) * x
    return found


@mx.custom_function
def _silu(x: mx.array) -> mx.array:
    """Return x sigmoid(x) of float32 of any shape."""
    given = np.array(x, copy=False).reshape(-1)
    found = np.empty_like(given)
    for start in range(0, given.size, _CHUNK):
        part, out = given[start : start + _CHUNK], found[start : start + _CHUNK]
        np.divide(part, _one_plus_exp_of_minus(part, out), out=out)
    return mx.array(found.reshape(x.shape))


@_silu.vjp
def _silu_vjp(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
    """The derivative is s (1 + x (1 - s)) with s = sigmoid(x)."""
    given = np.array(x, copy=False).reshape(-1)
    found = np.empty_like(given)
    for start in range(0, given.size, _CHUNK):
        part, out = given[start : start + _CHUNK], found[start : start + _CHUNK]
        s = np.reciprocal(_one_plus_exp_of_minus(part, out))
        np.multiply(1 + part * (1 - s), s, out=out)
    return cotangent * mx.array(found.reshape(x.shape))


def _one_plus_exp_of_minus(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return 1 + exp(-x) in `out`; infinity where that is more than float32 holds."""
    np.negative(x, out=out)
    with np.errstate(over="ignore"):
        np.exp(out, out=out)
    out += 1
    return out


def _attention(  # noqa: PLR0917, the arguments of mlx-lm's function
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: mx.array | str | None,
    sinks: mx.array | None = None,
) -> mx.array:
    """Return softmax(scale Q K^T + mask) V, as mlx-lm's function of this name.

    Queries are (batch, heads, length, n), keys and values (batch, fewer heads, read, n).
    """
    arrays = (queries, keys, values)
    if (
        hasattr(cache, "bits")
        or sinks is not None
        or any(array.dtype != mx.float32 for array in arrays)
        or not (mask is None or isinstance(mask, str) or _is_of_all_heads(mask))
    ):
        return _attention_of_stock(
            queries, keys, values, cache=cache, scale=scale, mask=mask, sinks=sinks
        )
    batch, heads, length, width = queries.shape
    shared, read = keys.shape[1], keys.shape[2]
    together = (batch, shared, heads // shared * length)
    scores = (queries * scale).reshape(*together, width) @ mx.swapaxes(keys, -1, -2)
    by_query = scores.reshape(batch, heads, length, read)
    if isinstance(mask, mx.array):
        by_query = _masked(by_query, mask)
    by_query = mx.contiguous(by_query)
    softmax: Any = _causal_softmax if isinstance(mask, str) else _softmax
    found: mx.array = softmax(by_query).reshape(*together, read) @ values
    return found.reshape(batch, heads, length, values.shape[-1])


def _is_of_all_heads(mask: mx.array) -> bool:
    return mask.ndim == 2 or (mask.ndim == 4 and mask.shape[1] == 1)  # noqa: PLR2004, axes


def _masked(scores: mx.array, mask: mx.array) -> mx.array:
    if mask.dtype == mx.bool_:
        return mx.where(mask, scores, mx.array(float(np.finfo(np.float32).min)))
    return scores + mask.astype(scores.dtype)


@mx.custom_function
def _softmax(scores: mx.array) -> mx.array:
    """Return the softmax over the last axis of float32 scores, which it overwrites."""
    rows = np.array(scores, copy=False).reshape(-1, scores.shape[-1])
    for some in _chunks(rows):
        _normalize(some)
    return scores


@mx.custom_function
def _causal_softmax(scores: mx.array) -> mx.array:
    """Return the softmax of what each query may read of float32 scores (..., queries, keys).

    The last query reads all keys, each one before it one less; the rest is zero. The scores are
    overwritten.
    """
    length, read = scores.shape[-2:]
    heads = np.array(scores, copy=False).reshape(-1, length, read)
    for start in range(0, length, _ROWS):
        stop = min(start + _ROWS, length)
        seen = read - length + stop
        later = np.triu_indices(stop - start, 1)
        heads[:, start:stop, seen:] = 0
        for some in _chunks(heads[:, start:stop, :seen]):
            some[:, :, seen - (stop - start) :][:, *later] = -np.inf
            _normalize(some)
    return scores


def _chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield parts of an array along its first axis that stay in a core's cache."""
    step = max(1, _CHUNK * len(array) // max(array.size, 1))
    for start in range(0, len(array), step):
        yield array[start : start + step]


def _normalize(rows: np.ndarray) -> None:
    """Replace float32 (..., keys) by its softmax over the last axis."""
    rows -= rows.max(axis=-1, keepdims=True)
    np.exp(rows, out=rows)
    rows /= rows.sum(axis=-1, keepdims=True)


def _softmax_vjp(_: mx.array, cotangent: mx.array, weights: mx.array) -> mx.array:
    gradient: mx.array = weights * (cotangent - (cotangent * weights).sum(axis=-1, keepdims=True))
    return gradient


_softmax.vjp(_softmax_vjp)
_causal_softmax.vjp(_softmax_vjp)
