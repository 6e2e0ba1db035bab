"""What is known of the tensors of one folder, measured in one way."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from bitbudget.app.core.formats import KEEP
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.streaming.files import SourceFiles
from bitbudget.workers.streaming.results import ResultCache, place_of, plan_key
from bitbudget.workers.streaming.tensors import TensorTask
from bitbudget.workers.sweep.plan import SweepPlan
from bitbudget.workers.sweep.weight_errors import WeightErrors

__all__ = ["Features", "MeasuredTensor", "Measuring", "ResultStore", "for_task"]

Features = Literal["default", "full"]


@dataclass(frozen=True, slots=True)
class Measuring:
    """How the tensors of a folder are measured. `cache` is a SQLite file, None for no cache."""

    folder: Path
    encoder: Encoder
    features: Features = "default"
    cache: Path | None = None

    def plan(self, task: TensorTask) -> SweepPlan:
        """Return what to do with one tensor; raises what `TensorTask.plan` raises."""
        return task.plan(self.encoder, full=self.features == "full")


@dataclass(frozen=True, slots=True)
class MeasuredTensor:
    """The result of one task.

    `digest` is that of its source bytes (see `streaming.digest`), `head` that of its
    first segment.
    """

    path: str
    errors: WeightErrors
    digest: str
    head: str = ""
    from_cache: bool = False


class ResultStore:
    """Finds and keeps results; without a cache nothing is known and nothing kept."""

    def __init__(self, how: Measuring) -> None:
        self._stack = ExitStack()
        self.files = self._stack.enter_context(SourceFiles(how.folder))
        cache = how.cache
        self._results = None if cache is None else self._stack.enter_context(ResultCache(cache))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def at_place(self, task: TensorTask, plan: SweepPlan) -> MeasuredTensor | None:
        """Return the result of bytes that were read before and have not been touched since."""
        if self._results is None:
            return None
        found = self.found(place_of(task.sources, self.files), plan)
        if found is None:
            return None
        return MeasuredTensor(task.path, for_task(task, found[1]), found[0], from_cache=True)

    def found(self, place: str, plan: SweepPlan) -> tuple[str, WeightErrors] | None:
        """Return digest and result of what is at a place, whatever that is."""
        return None if self._results is None else self._results.at_place(place, plan_key(plan))

    def knows_head(self, head: str, plan: SweepPlan) -> bool:
        """Whether some known tensor begins with this segment."""
        return self._results is not None and self._results.knows_head(head, plan_key(plan))

    def with_digest(self, digest: str, plan: SweepPlan) -> WeightErrors | None:
        """Return the result of these bytes, wherever they were read."""
        return None if self._results is None else self._results.with_digest(digest, plan_key(plan))

    def keep(self, task: TensorTask, plan: SweepPlan, measured: MeasuredTensor) -> None:
        """Remember a result."""
        place = place_of(task.sources, self.files)
        self.put(place, plan, measured.digest, measured.errors, head=measured.head)

    def put(
        self, place: str, plan: SweepPlan, digest: str, errors: WeightErrors, *, head: str = ""
    ) -> None:
        """Remember the result of what is at a place."""
        if self._results is not None:
            self._results.store(place, digest, head, plan_key(plan), errors)


def for_task(task: TensorTask, errors: WeightErrors) -> WeightErrors:
    """Return `errors` with the formats of the task, `keep` among them where it is wanted."""
    t2 = {f: 0.0 if f == KEEP else errors.t2[f] for f in task.formats}
    return WeightErrors(t2, errors.features, errors.t2_relative_error)
