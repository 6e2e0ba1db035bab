"""The original's predictions, computed once and compared with any number of candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import mlx.core as mx
import numpy as np

from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.running.streaming_forward import Forward

__all__ = ["TOP_K", "TeacherBatch", "TokenScores", "log_probabilities", "score", "teach"]

TOP_K: Final = 1024
"""Most likely tokens kept of a large vocabulary; the others share one bucket."""
_FULL_VOCABULARY: Final = 8192
"""Vocabularies up to this size are compared whole."""


@dataclass(frozen=True, slots=True)
class TeacherBatch:
    """The original's log-probabilities for a batch of windows.

    `log_p` is float32 (windows, length - 1, k), of the tokens `top` when only the k most likely are
    kept, `log_tail` then the log of what all others share. `label` is log p of the text's own next
    token, `best` the original's first choice.
    """

    ids: np.ndarray
    log_p: np.ndarray
    label: np.ndarray
    best: np.ndarray
    top: np.ndarray | None = None
    log_tail: np.ndarray | None = None
    vocabulary: int = 0


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Per token, float64 (windows, length - 1): KL, agreement, overlap and both log-losses."""

    kl: np.ndarray
    agree: np.ndarray
    overlap: np.ndarray
    reference_loss: np.ndarray
    candidate_loss: np.ndarray


def log_probabilities(model: Forward, ids: np.ndarray, where: str) -> mx.array:
    """Return float32 log-probabilities (windows, length - 1, vocabulary) of the next token.

    Raises InvalidModelError when an activation is NaN.
    """
    logits = model(mx.array(ids))[:, :-1].astype(mx.float32)
    result: mx.array = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    if not bool(mx.isfinite(result.sum())):
        raise InvalidModelError(
            where=where,
            found="NaN or infinite predictions",
            expected="finite logits in float32",
            remedy="check the weights; an overflow in another dtype shows up here, too",
        )
    return result


def teach(model: Forward, ids: np.ndarray, where: str) -> TeacherBatch:
    """Return the original's predictions for the windows `ids`."""
    log_p = log_probabilities(model, ids, where)
    vocabulary = log_p.shape[-1]
    label = _at_labels(log_p, ids)
    best = mx.argmax(log_p, axis=-1)
    if vocabulary <= _FULL_VOCABULARY:
        return TeacherBatch(
            ids, np.array(log_p), np.array(label), np.array(best), vocabulary=vocabulary
        )
    top = mx.argpartition(-log_p, kth=TOP_K, axis=-1)[..., :TOP_K]
    kept = mx.take_along_axis(log_p, top, axis=-1)
    return TeacherBatch(
        ids,
        np.array(kept),
        np.array(label),
        np.array(best),
        np.array(top),
        np.array(_log_tail(kept)),
        vocabulary,
    )


def score(batch: TeacherBatch, log_q: mx.array) -> TokenScores:
    """Compare a candidate's log-probabilities with the original's on the same windows.

    With a tail bucket KL and overlap are those of the coarser distributions: KL is then a lower
    bound of the whole one, the overlap an upper bound.
    """
    log_p, candidate = mx.array(batch.log_p), log_q
    if batch.top is not None and batch.log_tail is not None:
        kept = mx.take_along_axis(log_q, mx.array(batch.top), axis=-1)
        candidate = mx.concatenate([kept, _log_tail(kept)[..., None]], axis=-1)
        log_p = mx.concatenate([log_p, mx.array(batch.log_tail)[..., None]], axis=-1)
    p, q = mx.exp(log_p), mx.exp(candidate)
    kl = (p * (log_p - candidate)).sum(-1)
    agree = mx.argmax(log_q, axis=-1) == mx.array(batch.best)
    loss = -_at_labels(log_q, batch.ids)
    return TokenScores(
        np.array(kl, np.float64),
        np.array(agree, np.float64),
        np.array(mx.minimum(p, q).sum(-1), np.float64),
        -batch.label.astype(np.float64),
        np.array(loss, np.float64),
    )


def _at_labels(log_p: mx.array, ids: np.ndarray) -> mx.array:
    return mx.take_along_axis(log_p, mx.array(ids[:, 1:, None]), axis=-1)[..., 0]


def _log_tail(kept: mx.array) -> mx.array:
    """Return the log of the mass outside `kept`, at least float32's rounding of one."""
    return mx.log(mx.maximum(1 - mx.exp(kept).sum(-1), 1e-7))
