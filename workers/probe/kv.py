"""What errors in the KV cache cost, measured by forward passes: for `probe`, and to verify.

Each layer's keys or values pass through the format on their way into attention, as they would
through a quantized cache, and the KL of the predictions to the unchanged ones is taken.
Against `p`, a change d of the logits costs `log E_p[e^d] - E_p[d]`. Summed as
`log(1 + E_p[e^c - 1 - c])` with the centred change c it is never negative, and exact however small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_lm.models.cache import KVCache, make_prompt_cache

from bitbudget.app.core.kv import KvFormat, KvSide, rotation_seed
from bitbudget.app.core.measurement import KvCurve
from bitbudget.workers.fisher.kv import Decision, KvTaps, kv_curve, rounded
from bitbudget.workers.models.chat import chat_of
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.tokens import sample_tokens

__all__ = ["kv_kl", "probe_kv"]

_SEQUENCES: Final = 8
_ROWS: Final = 2
"""Sequences of a pass: the logits of a large vocabulary take most of the memory."""
_SEED: Final = 0x6B76
_SMALL: Final = 0.05


Choice = Mapping[int, Mapping[KvSide, KvFormat]]
"""Formats by cache layer: of both sides, or of one; what is not named keeps the model's type."""


class _RoundedCache(KVCache):
    """Gives attention its keys and values as their formats hold them."""

    def __init__(self, layer: int, sides: Mapping[KvSide, KvFormat], dtype: mx.Dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layer, self._sides, self._dtype = layer, sides, dtype

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return self._rounded(KvSide.KEYS, keys), self._rounded(KvSide.VALUES, values)

    def _rounded(self, side: KvSide, x: mx.array) -> mx.array:
        own = KvFormat(8 * self._dtype.size)
        format_ = self._sides.get(side, self._sides.get(KvSide.BOTH, own))
        return rounded(x, format_, self._dtype, rotation_seed(self._layer, side))


def probe_kv(
    folder: Path,
    dtype: mx.Dtype,
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[KvCurve, ...]:
    """Return the curve of every plain cache of the model in `folder`, whose weights are `dtype`.

    One layer is changed at a time; the text is the model's own. There is no curve where the model
    uses its caches in ways of its own.
    """
    model = load_float32(folder)
    taps = KvTaps.of(model, dtype)
    tokens = sample_tokens(folder, _SEQUENCES, seed=seed + _SEED, chat=chat_of(folder))
    todo = [(layer, d) for layer, decisions in taps.formats.items() for d in decisions]
    choices = [{layer: {side: format_}} for layer, (side, format_) in todo]
    costs = kv_kl(model, tokens, choices, dtype, progress)
    found: dict[int, dict[Decision, np.ndarray]] = {layer: {} for layer in taps.formats}
    for (layer, decision), nats in zip(todo, costs, strict=True):
        found[layer][decision] = nats
    size, own = int(tokens.size), 8 * dtype.size
    return tuple(kv_curve(layer, costs, size, own) for layer, costs in found.items())


def kv_kl(
    model: nn.Module,
    tokens: np.ndarray,
    choices: Sequence[Choice],
    dtype: mx.Dtype,
    progress: Callable[[int, int], None] | None = None,
) -> list[np.ndarray]:
    """Return what each choice of formats, by cache layer, costs each sequence of `tokens`, in nats.

    `model` computes in float32; its cache would hold `dtype`, which is what the KL is against.
    """
    own: Choice = {layer: {} for choice in choices for layer in choice}
    found: list[list[np.ndarray]] = [[] for _ in choices]
    batches = range(0, len(tokens), _ROWS)
    for number, start in enumerate(batches):
        ids = mx.array(tokens[start : start + _ROWS])
        exact = _logits(model, ids, own, dtype)
        for index, choice in enumerate(choices):
            changed = _logits(model, ids, {**own, **choice}, dtype)
            found[index].append(np.array(_kl(exact, changed).sum(axis=-1), np.float64))
            if progress is not None:
                progress(number * len(choices) + index + 1, len(batches) * len(choices))
    return [np.concatenate(parts) for parts in found]


def _logits(model: nn.Module, ids: mx.array, formats: Choice, dtype: mx.Dtype) -> mx.array:
    caches: list[Any] = [
        _RoundedCache(layer, formats[layer], dtype) if layer in formats else None
        for layer in range(len(make_prompt_cache(model)))
    ]
    logits: mx.array = model(ids, cache=caches).astype(mx.float32)
    return logits


def _kl(exact: mx.array, changed: mx.array) -> mx.array:
    p = mx.softmax(exact, axis=-1, precise=True)
    change = changed - exact
    change = change - (p * change).sum(axis=-1, keepdims=True)
    series = 0.5 * mx.square(change) * (1 + change / 3 * (1 + change / 4 * (1 + change / 5)))
    beyond = mx.where(mx.abs(change) < _SMALL, series, mx.expm1(change) - change)
    return mx.log1p(mx.maximum((p * beyond).sum(axis=-1), 0))
