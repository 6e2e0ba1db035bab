"""What an error in the KV cache costs, from the same backward pass as everything else.

To second order the KL of changed keys and values is `1/2 d^T F d`. Errors of quantization are close
to independent between groups (inside one, rounding of the stored scale ties them), so F counts
inside groups alone. With g the gradient of a loss whose labels are sampled from the model that is
`1/2 sum over groups (g . d)^2` per token (see `_cost`), with the very errors d that the cache makes
in every format: mlx-lm's QuantizedKVCache in affine groups, `bitbudget.kv` in rotated codebooks,
where a whole vector, which shares a scale, is the group. Keys and values are summed apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_lm.models.cache import KVCache, QuantizedKVCache, make_prompt_cache

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.inventory import CacheKind, CacheLayer
from bitbudget.app.core.kv import (
    KvFormat,
    KvSide,
    quantized_formats,
    rotated_formats,
    rotation_seed,
)
from bitbudget.app.core.measurement import KvCurve, KvPoint
from bitbudget.kv.codecs import RotatedCodec
from bitbudget.workers.running.taps import Call, Gradients, Tape

__all__ = ["Costs", "Decision", "KvTaps", "kv_curve", "read_costs", "rounded"]

_FEW_TOKENS: Final = 2
_NORMAL_95: Final = 1.96
_OWN: Final = KvFormat(0)

Decision = tuple[KvSide, KvFormat]
"""A format of keys or of values."""
Costs = Mapping[Decision, np.ndarray]
"""Nats of each sequence of text."""


def rounded(x: mx.array, format_: KvFormat, dtype: mx.Dtype, seed: int = 0) -> mx.array:
    """Return keys or values in float32 as a quantized cache of a model in `dtype` holds them.

    `seed` is that of the rotation of a rotated format.
    """
    stored = x.astype(dtype)
    if format_.is_own_type:
        return stored.astype(mx.float32)
    if format_.rotated:
        codec = RotatedCodec(format_.bits, x.shape[-1], seed)
        return codec.leave(codec.decode(codec.encode(stored), mx.float32))
    codes, scales, biases = mx.quantize(stored, group_size=format_.group_size, bits=format_.bits)
    return mx.dequantize(
        codes,
        scales.astype(mx.float32),
        biases.astype(mx.float32),
        group_size=format_.group_size,
        bits=format_.bits,
    )


@dataclass(frozen=True, slots=True)
class _KvCall(Call):
    """Keys or values on their way into a layer's cache."""

    layer: int = 0
    side: KvSide = KvSide.KEYS


class _TapCache(KVCache):
    """Keeps nothing: what a layer would store goes to the tape and back to the layer."""

    def __init__(self, layer: int, taps: KvTaps) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layer, self._taps = layer, taps

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return (
            self._taps.record(self._layer, KvSide.KEYS, keys),
            self._taps.record(self._layer, KvSide.VALUES, values),
        )


@dataclass
class KvTaps:
    """The caches of one model's plain attention layers, all of which record on one tape.

    `formats` by cache layer and side are those that can be run; `failure` says why there are none.
    """

    dtype: mx.Dtype
    formats: dict[int, tuple[Decision, ...]] = field(default_factory=dict)
    failure: str = ""
    options: JsonObject = field(default_factory=dict)
    _tape: Tape | None = None
    _sums: dict[int, dict[Decision, list[mx.array]]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, dtype: mx.Dtype) -> KvTaps:
        """Find the layers of `model`, whose weights are in `dtype`, that can be measured.

        Nothing is evaluated: MLX refuses a wrong shape or an unsupported cache when it builds the
        graph.
        """
        taps = cls(dtype)
        try:
            stock = make_prompt_cache(model)
            widths = _head_widths(model, stock)
            caches = [
                _TapCache(layer, taps) if layer in widths else None for layer in range(len(stock))
            ]
            model(mx.zeros((1, _FEW_TOKENS), mx.int32), cache=caches)
        except Exception as error:  # noqa: BLE001, a model may use its caches in ways of its own
            taps.failure = f"{type(error).__name__}: {error}"[:200]
            return taps
        taps.formats = _runnable(model, len(stock), widths)
        taps.options = {"cache": caches}
        return taps

    def record(self, layer: int, side: KvSide, x: mx.array) -> mx.array:
        """Note keys or values and return them with the tape's tap added."""
        if self._tape is None:
            return x
        return self._tape.record(_KvCall("", x, layer=layer, side=side), x)

    @contextmanager
    def on(self, tape: Tape) -> Iterator[None]:
        """Record on `tape`."""
        self._tape = tape
        try:
            yield
        finally:
            self._tape = None

    def take(self, pulled: Gradients) -> Gradients:
        """Add the cost of every format's errors up, unevaluated, and return the other calls."""
        others = []
        batch: dict[tuple[int, Decision], mx.array] = {}
        for call, gradient in pulled.calls:
            if not isinstance(call, _KvCall):
                others.append((call, gradient))
                continue
            exact = rounded(call.inputs, _OWN, self.dtype)
            seed = rotation_seed(call.layer, call.side)
            for side, format_ in self.formats[call.layer]:
                if side is not call.side:
                    continue
                error = rounded(call.inputs, format_, self.dtype, seed) - exact
                cost = _cost(gradient, error, exact, format_.group_size)
                key = (call.layer, (side, format_))
                batch[key] = batch[key] + cost if key in batch else cost
        for (layer, decision), nats in batch.items():
            self._sums.setdefault(layer, {}).setdefault(decision, []).append(nats)
        return replace(pulled, calls=others)

    def unevaluated(self) -> list[mx.array]:
        """Return what is to be evaluated with the latest batch."""
        return [costs[-1] for sums in self._sums.values() for costs in sums.values()]

    def finish(self) -> bytes:
        """Return the costs recorded since the last time, as JSON, and forget them."""
        found = {
            str(layer): [
                [side.value, f.bits, f.group_size, f.rotated, _joined(costs)]
                for (side, f), costs in sums.items()
            ]
            for layer, sums in self._sums.items()
        }
        self._sums.clear()
        return json.dumps(found).encode()


def _cost(gradient: mx.array, error: mx.array, exact: mx.array, group_size: int) -> mx.array:
    """Return what errors of keys or values cost each sequence, in nats.

    All arrays are (sequences, heads, tokens, width).

    A least-squares scale shrinks every vector of a head by about the same share. That part of the
    error is one change of all tokens, whose effects add up (for keys they nearly cancel, since
    attention weights sum to one); only what is left is independent between tokens and groups.
    """
    axes = (2, 3)
    share = (error * exact).sum(axes, keepdims=True) / mx.maximum(
        mx.square(exact).sum(axes, keepdims=True), 1e-30
    )
    rest = gradient * (error - share * exact)
    groups = rest.reshape(*rest.shape[:3], -1, group_size or rest.shape[-1]).sum(axis=-1)
    common = (gradient * share * exact).sum(axes)
    return 0.5 * (mx.square(groups).sum(axis=(1, 2, 3)) + mx.square(common).sum(axis=1))


def read_costs(data: bytes) -> dict[int, Costs]:
    """Return what `KvTaps.finish` wrote, by cache layer."""
    return {
        int(layer): {
            (KvSide(side), KvFormat(bits, group, rotated)): np.array(costs)
            for side, bits, group, rotated, costs in rows
        }
        for layer, rows in json.loads(data).items()
    }


def _joined(costs: list[mx.array]) -> list[float]:
    found: list[float] = np.concatenate([np.array(c) for c in costs]).tolist()
    return found


def _head_widths(model: nn.Module, stock: list[Any]) -> dict[int, tuple[int, int]]:
    """Return the widths of a key and of a value, of every plain cache the model uses."""
    caches = make_prompt_cache(model)
    model(mx.zeros((1, _FEW_TOKENS), mx.int32), cache=caches)
    return {
        layer: (cache.keys.shape[-1], cache.values.shape[-1])
        for layer, cache in enumerate(caches)
        if type(stock[layer]) is KVCache and cache.keys is not None and cache.values.shape[-1]
    }


def _runnable(
    model: nn.Module, count: int, widths: Mapping[int, tuple[int, int]]
) -> dict[int, tuple[Decision, ...]]:
    """Return the formats of either side in which a quantized cache works, by layer.

    Rotated codebooks run where affine groups do: the model only ever hands keys and values over.
    """
    runnable: dict[int, list[KvFormat]] = {layer: [] for layer in widths}
    for pair in sorted(set(widths.values())):
        layers = [layer for layer in widths if widths[layer] == pair]
        cache = CacheLayer(0, CacheKind.FULL, head_width=pair[0], value_width=pair[1])
        for format_ in quantized_formats(cache):
            all_run = _runs(model, count, layers, format_)
            for layer in layers:
                if all_run or _runs(model, count, [layer], format_):
                    runnable[layer].append(format_)
    return {
        layer: tuple(
            (side, format_)
            for side, width in zip((KvSide.KEYS, KvSide.VALUES), widths[layer], strict=True)
            for format_ in (*formats, *(rotated_formats(width) if formats else ()))
        )
        for layer, formats in runnable.items()
    }


def _runs(model: nn.Module, count: int, layers: list[int], format_: KvFormat) -> bool:
    caches: list[Any] = [
        QuantizedKVCache(group_size=format_.group_size, bits=format_.bits)
        if layer in layers
        else None
        for layer in range(count)
    ]
    try:
        model(mx.zeros((1, _FEW_TOKENS), mx.int32), cache=caches)
    except Exception:  # noqa: BLE001, whatever stops it, the layer stays in the model's own type
        return False
    return True


def kv_curve(layer: int, costs: Costs, tokens: int, own_bits: int) -> KvCurve:
    """Return a layer's curve from the nats of each sequence; `tokens` are those of all of them.

    What keys and values cost in one format is the sum of both: errors of groups add up.
    """
    own = KvPoint(own_bits, 0.0, group_size=0, interval_95=(0.0, 0.0))
    sides = {side: {f: nats for (s, f), nats in costs.items() if s is side} for side in KvSide}
    keys, values = sides[KvSide.KEYS], sides[KvSide.VALUES]
    both = {f: keys[f] + values[f] for f in keys if f in values and not f.rotated}
    both |= sides[KvSide.BOTH]

    def points(found: Mapping[KvFormat, np.ndarray]) -> tuple[KvPoint, ...]:
        return (own, *(_point(f, nats, tokens) for f, nats in found.items()))

    return KvCurve(layer, points(both), points(keys), points(values))


def _point(format_: KvFormat, nats: np.ndarray, tokens: int) -> KvPoint:
    per_token = nats * (nats.size / tokens)
    mean = float(per_token.mean())
    spread = float(per_token.std(ddof=1)) if nats.size > 1 else mean
    half = _NORMAL_95 * spread / math.sqrt(nats.size)
    return KvPoint(
        format_.bits,
        mean,
        format_.group_size,
        interval_95=(max(mean - half, 0.0), mean + half),
        rotated=format_.rotated,
    )
