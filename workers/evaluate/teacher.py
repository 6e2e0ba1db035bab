"""The original's predictions, computed once and compared with any number of candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import mlx.core as mx
import numpy as np

from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.running.device import on_gpu
from bitbudget.workers.running.numpy_functions import by_numpy
from bitbudget.workers.running.streaming_forward import Forward, Unheld

__all__ = [
    "TOP_K",
    "TeacherBatch",
    "TokenScores",
    "batches",
    "log_probabilities",
    "log_total",
    "score",
    "scores_of",
    "teach",
    "token_kl",
]

TOP_K: Final = 1024
"""Most likely tokens kept of a large vocabulary; the others share one bucket."""
_FULL_VOCABULARY: Final = 8192
"""Vocabularies up to this size are compared whole."""
_BATCH_ELEMENTS: Final = 1 << 23
"""Logits of a batch (32 MiB in float32)."""
_STREAMED_ELEMENTS: Final = 1 << 27
"""As many where every batch reads all weights (512 MiB)."""


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

    def shortened(self, tokens: int) -> TeacherBatch:
        """Return the first `tokens` tokens of every window, all where there are no more."""
        kept, predicted = np.s_[:, :tokens], np.s_[:, : tokens - 1]
        return TeacherBatch(
            self.ids[kept],
            self.log_p[predicted],
            self.label[predicted],
            self.best[predicted],
            None if self.top is None else self.top[predicted],
            None if self.log_tail is None else self.log_tail[predicted],
            self.vocabulary,
        )


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
    logits = _logits(model, ids)
    result: mx.array = logits - log_total(logits)
    if not bool(mx.isfinite(result.sum())):
        raise _not_finite(where)
    return result


def batches(model: Forward, windows: np.ndarray) -> list[np.ndarray]:
    """Return int32 (sequences, length) in parts whose logits take 32 MiB, or of one row.

    They take 512 MiB where `model` reads all its weights for every part.
    """
    vocabulary = int(model(mx.array(windows[:1, :1])).shape[-1])
    elements = _STREAMED_ELEMENTS if isinstance(model, Unheld) else _BATCH_ELEMENTS
    rows = max(1, elements // (vocabulary * windows.shape[1]))
    return [windows[start : start + rows] for start in range(0, len(windows), rows)]


def token_kl(batch: TeacherBatch, model: Forward, where: str) -> np.ndarray:
    """Return the KL in nats of every token, float64 (windows, length - 1).

    The same as `score` gives, with two passes over the logits less than everything takes.

    Raises InvalidModelError when an activation is NaN.
    """
    logits = _logits(model, batch.ids)
    kl = np.array(_divergence(*_compared(batch, logits, log_total(logits))), np.float64)
    if not np.isfinite(kl).all():
        raise _not_finite(where)
    return kl


def scores_of(batch: TeacherBatch, model: Forward, where: str) -> TokenScores:
    """Compare the predictions of `model` with the original's.

    Raises InvalidModelError when an activation is NaN.
    """
    found = score(batch, _logits(model, batch.ids))
    if not np.isfinite(found.kl).all():
        raise _not_finite(where)
    return found


def _logits(model: Forward, ids: np.ndarray) -> mx.array:
    with by_numpy():
        found: mx.array = model(mx.array(ids))[:, :-1].astype(mx.float32)
        mx.eval(found)
    return found


def _not_finite(where: str) -> InvalidModelError:
    return InvalidModelError(
        where=where,
        found="NaN or infinite predictions",
        expected="finite logits in float32",
        remedy="check the weights; an overflow in another dtype shows up here, too",
    )


def teach(model: Forward, ids: np.ndarray, where: str) -> TeacherBatch:
    """Return the original's predictions for the windows `ids`."""
    logits = _logits(model, ids)
    total, vocabulary = log_total(logits), logits.shape[-1]
    if not bool(mx.isfinite(total).all()):
        raise _not_finite(where)
    label, best = np.array(_at_labels(logits, ids) - total[..., 0]), _best(logits)
    if vocabulary <= _FULL_VOCABULARY:
        return TeacherBatch(ids, np.array(logits - total), label, best, vocabulary=vocabulary)
    top = _most_likely(logits)
    kept = mx.take_along_axis(logits, top, axis=-1) - total
    tail = np.array(_log_tail(kept))
    return TeacherBatch(ids, np.array(kept), label, best, np.array(top), tail, vocabulary)


def score(batch: TeacherBatch, logits: mx.array) -> TokenScores:
    """Compare a candidate's logits with the original's predictions on the same windows.

    `logits` (windows, length - 1, vocabulary) may be log-probabilities, too. With a tail bucket KL
    and overlap are those of the coarser distributions: KL is then a lower bound of the whole one,
    the overlap an upper bound.
    """
    total = log_total(logits)
    log_p, log_q = _compared(batch, logits, total)
    agree = _best(logits) == batch.best
    loss = total[..., 0] - _at_labels(logits, batch.ids)
    return TokenScores(
        np.array(_divergence(log_p, log_q), np.float64),
        agree.astype(np.float64),
        np.array(mx.minimum(mx.exp(log_p), mx.exp(log_q)).sum(-1), np.float64),
        -batch.label.astype(np.float64),
        np.array(loss, np.float64),
    )


def log_total(logits: mx.array) -> mx.array:
    """Return the log of the sum of exponentials of float32 (windows, tokens, vocabulary).

    The last axis is kept, with length 1. On a CPU NumPy does it, row by row so that a row stays in
    the cache: MLX takes ten times as long for an exponential there.
    """
    if on_gpu():
        return mx.logsumexp(logits, axis=-1, keepdims=True)
    values = np.array(logits, copy=False)
    found = np.empty((*values.shape[:-1], 1), np.float32)
    for at in np.ndindex(*values.shape[:-1]):
        row, most = values[at], values[at].max()
        found[at] = most + np.log(np.exp(row - most).sum())
    return mx.array(found)


def _best(scores: mx.array) -> np.ndarray:
    """Return the most likely token by float32 (windows, tokens, vocabulary)."""
    if on_gpu():
        return np.array(mx.argmax(scores, axis=-1))
    best: np.ndarray = np.array(scores, copy=False).argmax(axis=-1).astype(np.uint32)
    return best


def _most_likely(scores: mx.array) -> mx.array:
    """Return the `TOP_K` most likely tokens by float32 (windows, tokens, vocabulary), in any order.

    On a CPU NumPy finds them in a quarter of the time that MLX takes there.
    """
    if on_gpu():
        return mx.argpartition(-scores, kth=TOP_K, axis=-1)[..., :TOP_K]
    values = np.array(scores, copy=False)
    found = np.empty((*values.shape[:-1], TOP_K), np.uint32)
    for at in np.ndindex(*values.shape[:-1]):
        found[at] = np.argpartition(values[at], -TOP_K)[-TOP_K:]
    return mx.array(found)


def _compared(batch: TeacherBatch, logits: mx.array, total: mx.array) -> tuple[mx.array, mx.array]:
    """Return log p and log q over the vocabulary, or over the top tokens and the rest."""
    log_p = mx.array(batch.log_p)
    if batch.top is None or batch.log_tail is None:
        return log_p, logits - total
    kept = mx.take_along_axis(logits, mx.array(batch.top), axis=-1) - total
    log_q = mx.concatenate([kept, _log_tail(kept)[..., None]], axis=-1)
    return mx.concatenate([log_p, mx.array(batch.log_tail)[..., None]], axis=-1), log_q


def _divergence(log_p: mx.array, log_q: mx.array) -> mx.array:
    kl: mx.array = (mx.exp(log_p) * (log_p - log_q)).sum(-1)
    return kl


def _at_labels(log_p: mx.array, ids: np.ndarray) -> mx.array:
    return mx.take_along_axis(log_p, mx.array(ids[:, 1:, None]), axis=-1)[..., 0]


def _log_tail(kept: mx.array) -> mx.array:
    """Return the log of the mass outside `kept`, at least float32's rounding of one."""
    return mx.log(mx.maximum(1 - mx.exp(kept).sum(-1), 1e-7))
