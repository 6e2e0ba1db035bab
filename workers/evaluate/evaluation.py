"""Evaluate checkpoints against their original: KL, agreement, perplexity, noise floor.

Both sides compute in float32 (quantized modules as the exact affine value of their stored scales),
so the numbers are those of the weights and not of a machine's kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Final

import mlx.core as mx
import numpy as np
from mlx import nn

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.errors import InvalidModelError, InvalidRequestError
from bitbudget.workers.evaluate.cache import ReferenceCache
from bitbudget.workers.evaluate.reference import job_rollouts
from bitbudget.workers.evaluate.statistics import summary
from bitbudget.workers.evaluate.teacher import (
    TOP_K,
    TeacherBatch,
    TokenScores,
    batches,
    log_probabilities,
    log_total,
    score,
    scores_of,
    teach,
)
from bitbudget.workers.evaluate.windows import (
    WINDOW,
    digest,
    rollout_kind,
    rollout_windows,
    text_windows,
)
from bitbudget.workers.models.given import read_given
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.streaming_forward import (
    Forward,
    Unheld,
    empty_cache,
    fits_whole,
    open_forward,
)

__all__ = ["Evaluator", "evaluate", "read_text"]

_FLOOR_TOKENS: Final = 64

Progress = Callable[[int, int], None]


def evaluate(
    checkpoint: Path,
    reference: Path,
    *,
    text: str | Path | None = None,
    rollouts: int = 0,
    seed: int = 0,
    progress: Progress | None = None,
) -> JsonObject:
    """Return the report of `evaluate --json` for one checkpoint; see `Evaluator`."""
    evaluation = Evaluator(reference, text=text, rollouts=rollouts, seed=seed, progress=progress)
    return evaluation.report(checkpoint)


class Evaluator:
    """An original with the windows it is judged on; the original's pass is made once.

    `text` is a file of text, `windows` are token ids, int32 (sequences, length), and `rollouts`
    counts sequences the original writes itself. With several, the top of the report is about the
    first of these and `sets` holds each; without any it is as many as `effort` says. `seed` fixes
    rollouts and bootstrap. `cache` keeps rollouts and the original's predictions.
    """

    def __init__(
        self,
        reference: Path,
        *,
        text: str | Path | None = None,
        rollouts: int = 0,
        windows: np.ndarray | None = None,
        seed: int = 0,
        cache: ReferenceCache | None = None,
        effort: Effort = Effort.STANDARD,
        progress: Progress | None = None,
    ) -> None:
        self.cache, self.effort = cache, effort
        self.reference = Path(reference)
        self.seed = seed
        self.progress = progress or (lambda _done, _total: None)
        self.windows: dict[str, np.ndarray] = {}
        if text is not None:
            self.windows["text"] = text_windows(
                self.reference, read_text(Path(text)), where=str(text)
            )
        if windows is not None:
            self.windows["windows"] = windows
        if rollouts or not self.windows:
            self.windows["rollouts"] = self._rollouts(rollouts)

    def _rollouts(self, count: int) -> np.ndarray:
        """Return so many rollouts, of 0 those of a job."""
        if not count:
            return job_rollouts(
                self.reference,
                seed=self.seed,
                cache=self.cache,
                effort=self.effort,
                progress=self.progress,
            )[1]

        def write() -> np.ndarray:
            return rollout_windows(self.reference, count, seed=self.seed, progress=self.progress)

        if self.cache is None:
            return write()
        return self.cache.rollouts(rollout_kind(self.reference), count, WINDOW, self.seed, write)

    @cached_property
    def original(self) -> nn.Module:
        """The reference in float32, whole."""
        return load_float32(self.reference)

    @cached_property
    def _teacher(self) -> Forward:
        """The reference, which is read at every pass where two do not fit in memory."""
        return self.original if fits_whole(self.reference, copies=2) else Unheld(self.reference)

    @cached_property
    def taught(self) -> dict[str, list[TeacherBatch]]:
        """The original's predictions on every window."""
        return {name: self._taught(windows) for name, windows in self.windows.items()}

    def _taught(self, windows: np.ndarray) -> list[TeacherBatch]:
        def teach_all() -> list[TeacherBatch]:
            parts = batches(self._teacher, windows)
            return [teach(self._teacher, part, str(self.reference)) for part in parts]

        return teach_all() if self.cache is None else self.cache.taught(windows, teach_all)

    def report(self, checkpoint: Path) -> JsonObject:
        """Return the report of one checkpoint.

        What needs the original comes first, so that it and the checkpoint are never both held.
        """
        _ = self.taught, self.noise_floor
        self.release()
        return self.report_model(open_forward(checkpoint, copies=2), str(checkpoint))

    def release(self) -> None:
        """Drop the original's weights; they are read again where they are needed."""
        for held in ("original", "_teacher"):
            self.__dict__.pop(held, None)

    def report_model(self, candidate: Forward, name: str) -> JsonObject:
        """Return the report of a float32 model called `name`.

        Raises InvalidModelError on NaN activations and when the vocabularies differ.
        """
        sets = self.sets(candidate, name)
        first = next(iter(sets))
        vocabulary = self.taught[first][0].vocabulary
        truncated = self.taught[first][0].top is not None
        return {
            **sets[first],
            "evaluated_on": first,
            "noise_floor": self.noise_floor["kl_nats_per_token"],
            "noise_floor_path": self.noise_floor["path"],
            "distinguishable": sets[first]["kl_nats_per_token"]
            > 2 * self.noise_floor["kl_nats_per_token"],
            "vocabulary": vocabulary,
            "kl_is_lower_bound": truncated,
            "top_k": TOP_K if truncated else vocabulary,
            "seed": self.seed,
            "checkpoint": name,
            "reference": str(self.reference),
            "sets": sets,
        }

    def sets_of(self, checkpoint: Path) -> dict[str, JsonObject]:
        """Return the numbers of each set of windows for one checkpoint."""
        return self.sets(open_forward(checkpoint, copies=2), str(checkpoint))

    def sets(
        self, candidate: Forward, name: str, parts: Collection[str] | None = None
    ) -> dict[str, JsonObject]:
        """Return the numbers of each set of windows (of those in `parts`), without noise floor."""
        sets: dict[str, JsonObject] = {}
        chosen = [part for part in self.windows if parts is None or part in parts]
        total = sum(self.windows[part].size for part in chosen)
        done = 0
        for part in chosen:
            scores: list[TokenScores] = []
            for batch in self.taught[part]:
                scores.append(_score(candidate, batch, name))
                done += batch.ids.size
                self.progress(done, total)
            sets[part] = summary(_joined(scores), seed=self.seed)
            sets[part]["windows_digest"] = digest(self.windows[part])
        return sets

    @cached_property
    def noise_floor(self) -> JsonObject:
        """KL of the original to itself by another path, on the first tokens of a window.

        In the checkpoint's own dtype where this machine can run it, which is what inference will
        do; else decoding token by token in float32.
        """
        ids = next(iter(self.windows.values()))[:1, :_FLOOR_TOKENS]
        batch = teach(self._teacher, ids, str(self.reference))
        try:
            other = open_forward(self.reference, copies=3, dtype=mx.bfloat16)
            log_q = log_probabilities(other, ids, str(self.reference))
            return {"kl_nats_per_token": _mean_kl(batch, log_q), "path": "bfloat16 computation"}
        except (RuntimeError, ValueError, InvalidModelError):
            log_q = _decoded(self._teacher, ids)
            return {"kl_nats_per_token": _mean_kl(batch, log_q), "path": "decoding in float32"}


def _mean_kl(batch: TeacherBatch, log_q: mx.array) -> float:
    return max(float(score(batch, log_q).kl.mean()), 0.0)


def _decoded(model: Forward, ids: np.ndarray) -> mx.array:
    cache = empty_cache(model)
    steps = [
        model(mx.array(ids[:, position : position + 1]), cache=cache).astype(mx.float32)
        for position in range(ids.shape[1] - 1)
    ]
    logits = mx.concatenate(steps, axis=1)
    return logits - log_total(logits)


def _score(candidate: Forward, batch: TeacherBatch, name: str) -> TokenScores:
    if int(batch.ids.max()) >= (found := _vocabulary(candidate, batch.ids[:1, :1] * 0)) or (
        found != batch.vocabulary
    ):
        raise InvalidModelError(
            where=name,
            found=f"a vocabulary of {found}",
            expected=f"{batch.vocabulary}, that of the reference",
            remedy="evaluate against the model the checkpoint was made from",
        )
    return scores_of(batch, candidate, name)


def _vocabulary(model: Forward, ids: np.ndarray) -> int:
    return int(model(mx.array(ids[:1, :1])).shape[-1])


def _joined(scores: list[TokenScores]) -> TokenScores:
    names = [field.name for field in fields(TokenScores)]
    return TokenScores(*(np.concatenate([getattr(s, name) for s in scores]) for name in names))


def read_text(path: Path) -> str:
    """Return the text a user named; InvalidRequestError where it is no UTF-8."""
    try:
        return read_given(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            where=str(path),
            found=f"{type(error).__name__}: {error}",
            expected="a readable UTF-8 text file",
            remedy="give the path of a plain text file",
        ) from error
