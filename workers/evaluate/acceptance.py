"""How often a draft's tokens are accepted with shared Gumbel noise, computed and not sampled.

Both models take the argmax of their logits plus the same noise. They agree with probability
sum_i 1 / sum_j max(p_j / p_i, q_j / q_i).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.evaluate.teacher import batches, log_probabilities, log_total
from bitbudget.workers.running.streaming_forward import open_forward

__all__ = ["Acceptance", "agreement", "measure_acceptance"]


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Means over tokens: of agreement with shared noise, of overlap, and KL in nats.

    `independent` is how often two independent samples agree, sum_i p_i q_i.
    """

    acceptance: float
    ear: float
    independent: float
    kl_nats_per_token: float
    tokens: int


def agreement(log_p: mx.array, log_q: mx.array) -> mx.array:
    """Return the probability (...,) that argmax(log p + g) is argmax(log q + g), g Gumbel noise.

    `log_p` and `log_q` are log-probabilities (..., vocabulary) in float32. In the order of q / p
    the larger term of each maximum is known: q_j / q_i where j comes after i, else p_j / p_i. Sums
    of p up to i and of q after i are then enough: O(V log V).
    """
    order = mx.argsort(log_q - log_p, axis=-1)
    sorted_p = mx.take_along_axis(log_p, order, axis=-1)
    sorted_q = mx.take_along_axis(log_q, order, axis=-1)
    up_to = mx.cumsum(mx.exp(sorted_p), axis=-1)
    after = mx.cumsum(mx.exp(sorted_q), axis=-1, reverse=True, inclusive=False)
    log_up_to, log_after = mx.log(mx.maximum(up_to, 1e-38)), mx.log(mx.maximum(after, 1e-38))
    return mx.exp(-mx.logaddexp(log_up_to - sorted_p, log_after - sorted_q)).sum(axis=-1)


def measure_acceptance(
    target: Path,
    draft: Path,
    windows: np.ndarray,
    *,
    temperature: float = 1.0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Acceptance:
    """Return the acceptance of a draft on int32 (sequences, length), text of the target.

    Both models are run in float32. InvalidModelError where their vocabularies differ.
    """
    models = open_forward(target, copies=2), open_forward(draft, copies=2)
    sums, done = np.zeros(4), 0
    for ids in batches(models[0], windows):
        log_p, log_q = (
            _at(log_probabilities(model, ids, str(folder)), temperature)
            for model, folder in zip(models, (target, draft), strict=True)
        )
        _check_vocabularies(draft, log_p, log_q)
        p, q = mx.exp(log_p), mx.exp(log_q)
        kl = (p * (log_p - log_q)).sum(axis=-1)
        parts = (agreement(log_p, log_q), mx.minimum(p, q).sum(-1), (p * q).sum(-1), kl)
        sums += [float(part.sum()) for part in parts]
        done += ids.size
        progress(done, windows.size)
    tokens = windows.shape[0] * (windows.shape[1] - 1)
    acceptance, ear, independent, kl = (float(total) / tokens for total in sums)
    return Acceptance(acceptance, ear, independent, kl, tokens)


def _at(log_p: mx.array, temperature: float) -> mx.array:
    warmer = log_p / temperature
    return warmer - log_total(warmer)


def _check_vocabularies(draft: Path, log_p: mx.array, log_q: mx.array) -> None:
    if log_p.shape != log_q.shape:
        raise InvalidModelError(
            where=str(draft),
            found=f"a vocabulary of {log_q.shape[-1]}",
            expected=f"{log_p.shape[-1]}, that of the target",
            remedy="take a draft with the target's tokenizer",
        )
