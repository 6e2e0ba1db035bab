"""What an error in the KV cache costs, from the same backward pass as everything else.

To second order the KL of changed keys and values is `1/2 d^T F d`. Errors of quantization are close
to independent between groups (inside one, rounding of the stored scale ties them), so F counts
inside groups alone. With g the gradient of a loss whose labels are sampled from the model that is
`1/2 sum over groups (g . d)^2` per token, with the very errors d that mlx-lm's QuantizedKVCache
makes in every format.
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

from bitbudget.app.core.inventory import CacheKind, CacheLayer
from bitbudget.app.core.kv import KvFormat, quantized_formats
from bitbudget.app.core.measurement import KvCurve, KvPoint
from bitbudget.workers.running.taps import Call, Gradients, Tape

__all__ = ["Costs", "KvTaps", "kv_curve", "read_costs", "rounded"]

_FEW_TOKENS: Final = 2
_NORMAL_95: Final = 1.96
_OWN: Final = KvFormat(0)

Costs = Mapping[KvFormat, np.ndarray]
"""Nats of each sequence of text, by format."""


def rounded(x: mx.array, format_: KvFormat, dtype: mx.Dtype) -> mx.array:
    """Return keys or values in float32 as a quantized cache of a model in `dtype` holds them."""
    stored = x.astype(dtype)
    if not format_.group_size:
        return stored.astype(mx.float32)
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


class _TapCache(KVCache):
    """Keeps nothing: what a layer would store goes to the tape and back to the layer."""

    def __init__(self, layer: int, taps: KvTaps) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layer, self._taps = layer, taps

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return self._taps.record(self._layer, keys), self._taps.record(self._layer, values)


@dataclass
class KvTaps:
    """The caches of one model's plain attention layers, all of which record on one tape.

    `formats` by cache layer are those that mlx-lm can run; `failure` says why there are none.
    """

    dtype: mx.Dtype
    formats: dict[int, tuple[KvFormat, ...]] = field(default_factory=dict)
    failure: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    _tape: Tape | None = None
    _sums: dict[int, dict[KvFormat, list[mx.array]]] = field(default_factory=dict)

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

    def record(self, layer: int, x: mx.array) -> mx.array:
        """Note keys or values and return them with the tape's tap added."""
        return x if self._tape is None else self._tape.record(_KvCall("", x, layer=layer), x)

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
        batch: dict[tuple[int, KvFormat], mx.array] = {}
        for call, gradient in pulled.calls:
            if not isinstance(call, _KvCall):
                others.append((call, gradient))
                continue
            exact = rounded(call.inputs, _OWN, self.dtype)
            for format_ in self.formats[call.layer]:
                error = rounded(call.inputs, format_, self.dtype) - exact
                lost = (gradient * error).reshape(*error.shape[:3], -1, format_.group_size)
                cost = 0.5 * mx.square(lost.sum(axis=-1)).sum(axis=(1, 2, 3))
                key = (call.layer, format_)
                batch[key] = batch[key] + cost if key in batch else cost
        for (layer, format_), nats in batch.items():
            self._sums.setdefault(layer, {}).setdefault(format_, []).append(nats)
        return replace(pulled, calls=others)

    def unevaluated(self) -> list[mx.array]:
        """Return what is to be evaluated with the latest batch."""
        return [costs[-1] for sums in self._sums.values() for costs in sums.values()]

    def finish(self) -> bytes:
        """Return the costs recorded since the last time, as JSON, and forget them."""
        found = {
            str(layer): [
                [f.bits, f.group_size, np.concatenate([np.array(c) for c in costs]).tolist()]
                for f, costs in sums.items()
            ]
            for layer, sums in self._sums.items()
        }
        self._sums.clear()
        return json.dumps(found).encode()


def read_costs(data: bytes) -> dict[int, Costs]:
    """Return what `KvTaps.finish` wrote, by cache layer."""
    return {
        int(layer): {KvFormat(bits, group): np.array(costs) for bits, group, costs in rows}
        for layer, rows in json.loads(data).items()
    }


def _head_widths(model: nn.Module, stock: list[Any]) -> dict[int, int]:
    """Return the width that groups must divide, of every plain cache the model uses."""
    caches = make_prompt_cache(model)
    model(mx.zeros((1, _FEW_TOKENS), mx.int32), cache=caches)
    return {
        layer: math.gcd(cache.keys.shape[-1], cache.values.shape[-1])
        for layer, cache in enumerate(caches)
        if type(stock[layer]) is KVCache and cache.keys is not None and cache.values.shape[-1]
    }


def _runnable(
    model: nn.Module, count: int, widths: Mapping[int, int]
) -> dict[int, tuple[KvFormat, ...]]:
    """Return the formats in which mlx-lm's own quantized cache works, by layer."""
    runnable: dict[int, list[KvFormat]] = {layer: [] for layer in widths}
    for width in sorted(set(widths.values())):
        layers = [layer for layer in widths if widths[layer] == width]
        for format_ in quantized_formats(CacheLayer(0, CacheKind.FULL, head_width=width)):
            all_run = _runs(model, count, layers, format_)
            for layer in layers:
                if all_run or _runs(model, count, [layer], format_):
                    runnable[layer].append(format_)
    return {layer: tuple(formats) for layer, formats in runnable.items()}


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
    """Return a layer's curve from the nats of each sequence; `tokens` are those of all of them."""
    own = KvPoint(own_bits, 0.0, group_size=0, interval_95=(0.0, 0.0))
    return KvCurve(layer, (own, *(_point(f, values, tokens) for f, values in costs.items())))


def _point(format_: KvFormat, nats: np.ndarray, tokens: int) -> KvPoint:
    per_token = nats * (nats.size / tokens)
    mean = float(per_token.mean())
    spread = float(per_token.std(ddof=1)) if nats.size > 1 else mean
    half = _NORMAL_95 * spread / math.sqrt(nats.size)
    return KvPoint(
        format_.bits, mean, format_.group_size, interval_95=(max(mean - half, 0.0), mean + half)
    )
