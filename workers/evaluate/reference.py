"""The windows that predictions are checked on, with what the original predicts there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitbudget.app.core.effort import (
    EFFORTS,
    PROBING_WINDOWS,
    Effort,
    rollout_count,
    writes_rollouts_beside,
)
from bitbudget.workers.evaluate.cache import ReferenceCache
from bitbudget.workers.evaluate.teacher import TeacherBatch, batches, teach
from bitbudget.workers.evaluate.windows import rollout_kind, rollout_script, rollout_windows
from bitbudget.workers.files.folder import read_files
from bitbudget.workers.running.hidden_states import HiddenStates
from bitbudget.workers.running.scripts import Script
from bitbudget.workers.running.streaming_forward import Forward, open_forward
from bitbudget.workers.running.tokens import write_tokens

__all__ = [
    "Reference",
    "job_rollouts",
    "write_with_rollouts",
]

Progress = Callable[[int, int], None]


def job_rollouts(
    folder: Path,
    *,
    seed: int,
    cache: ReferenceCache | None,
    effort: Effort = Effort.STANDARD,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return rollouts to verify predictions on and, disjoint from them, rollouts to evaluate on.

    They are written in one batch, int32 (count, length) each: reading the weights for a token costs
    the same however many sequences go on by one. How many there are, and whether there are any of
    the first kind, follows from the effort.
    """
    length, total = EFFORTS[effort].window_tokens, _rollouts(folder, effort)

    def write() -> np.ndarray:
        return rollout_windows(folder, total, length=length, seed=seed, progress=progress)

    if cache is None:
        both = write()
    else:
        both = cache.rollouts(rollout_kind(folder), total, length, seed, write)
    evaluating = EFFORTS[effort].evaluated_windows
    return both[evaluating:], both[:evaluating]


def _rollouts(folder: Path, effort: Effort) -> int:
    """Return how many rollouts a job needs, by the values in the tensors of its model."""
    shapes = (tensor.shape for file in read_files(folder) for tensor in file.tensors)
    return rollout_count(effort, sum(map(math.prod, shapes)))


def write_with_rollouts(
    folder: Path,
    text: Script,
    *,
    seed: int,
    cache: ReferenceCache,
    effort: Effort,
    hidden: HiddenStates | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return int32 (sequences, length): the rows of `text` with what the model in `folder` wrote.

    Where a job of this effort needs rollouts, too, and all are few enough to be written side by
    side, they are, and `cache` keeps them.
    """
    count, total, script = len(text.rows), _rollouts(folder, effort), text
    together = writes_rollouts_beside(effort, count, total)
    if together:
        length = text.rows.shape[1]
        script = text.beside(rollout_script(folder, total, length=length, seed=seed))
    written = write_tokens(folder, script, seed=seed, hidden=hidden, progress=progress)
    if together:
        asked = EFFORTS[effort].window_tokens
        cache.rollouts(rollout_kind(folder), total, asked, seed, lambda: written[count:])
    return written[:count]


@dataclass(frozen=True, slots=True)
class Reference:
    """What an original predicts on the windows that trials are compared on.

    `probing` are for many comparisons of little, `judging` for the level of whole allocations.
    """

    probing: list[TeacherBatch]
    judging: list[TeacherBatch]

    @property
    def everything(self) -> list[TeacherBatch]:
        """All windows."""
        return [*self.probing, *self.judging]

    @classmethod
    def on(
        cls, folder: Path, windows: np.ndarray, *, cache: ReferenceCache | None = None
    ) -> Reference:
        """Return the predictions of the original in `folder` on int32 (sequences, length)."""
        model: list[Forward] = []

        def taught(part: np.ndarray) -> list[TeacherBatch]:
            model[:] = model or [open_forward(folder)]
            return [teach(model[0], ids, str(folder)) for ids in batches(model[0], part)]

        def known(part: np.ndarray) -> list[TeacherBatch]:
            if not len(part):
                return []
            return taught(part) if cache is None else cache.taught(part, lambda: taught(part))

        return cls(known(windows[:PROBING_WINDOWS]), known(windows[PROBING_WINDOWS:]))
