"""KL of allocations, measured by running them: one at a time, in a model of any size."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

import numpy as np

from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.measurement import Encoder
from bitbudget.app.core.relinearization import GroupCosts
from bitbudget.workers.evaluate.reference import Reference
from bitbudget.workers.evaluate.teacher import TeacherBatch, token_kl
from bitbudget.workers.fisher.statistics import ModuleStatistics
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.prediction.candidate import Candidate, open_candidate
from bitbudget.workers.prediction.code_store import CodeStore
from bitbudget.workers.quantize.coding import stored_arrays, written_arrays

__all__ = ["Coding", "MeasuredKl", "Trials"]

_WRITTEN: Final = "written"
"""The variant of codes that are fitted to the inputs of a coded model."""


@dataclass(frozen=True, slots=True)
class MeasuredKl:
    """KL in nats of each token, (windows, tokens)."""

    by_token: np.ndarray

    @property
    def by_window(self) -> np.ndarray:
        """Nats per token of each window, (windows,)."""
        means: np.ndarray = self.by_token.mean(axis=1)
        return means

    @property
    def mean(self) -> float:
        """Nats per token, not negative."""
        return max(float(self.by_token.mean()), 0.0)

    @property
    def log_error(self) -> float:
        """The standard error of the logarithm of the mean, by how far windows differ."""
        count, mean = len(self.by_window), self.mean
        if count < 2 or mean <= 0:  # noqa: PLR2004 - one window has no spread
            return 0.0
        return float(self.by_window.std(ddof=1) / np.sqrt(count)) / mean

    def on(self, windows: Sequence[TeacherBatch]) -> MeasuredKl:
        """Return the part measured on `windows`, which are the first ones or begin as they do."""
        count = sum(len(batch.ids) for batch in windows)
        tokens = max((batch.log_p.shape[1] for batch in windows), default=0)
        return MeasuredKl(self.by_token[:count, :tokens])

    def over(self, factor: float) -> MeasuredKl:
        """Return the same divided by `factor`."""
        return MeasuredKl(self.by_token / factor)


@dataclass(frozen=True, slots=True)
class Coding:
    """How the modules of one checkpoint are coded: the encoder and the statistics it needs.

    `sweeps` of the descent are the encoder's own where they are not given. Codes that wait for
    their turn lie in `scratch`, by default the system's folder for temporary files: for each
    allocation about the bytes of its checkpoint.
    """

    checkpoint: Checkpoint
    inventory: Inventory
    encoder: Encoder
    statistics: Mapping[str, ModuleStatistics]
    sweeps: int | None = None
    scratch: Path | None = None


class Trials:
    """One original, the weights of whose modules are replaced by what allocations store.

    Codes lie on disk while the block is open; in memory is one float32 model where half of the
    memory holds it, else what a streaming forward pass needs.

        with Trials(coding, reference) as trials:
            trials.kl(formats, trials.reference.judging).mean
    """

    def __init__(
        self, coding: Coding, reference: Reference, *, memory_bytes: int | None = None
    ) -> None:
        self.coding, self.reference = coding, reference
        self.inventory = coding.inventory
        self._memory_bytes = memory_bytes
        self._opened: Candidate | None = None
        self._now: dict[str, tuple[Format, str]] = {}
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        """Make a folder for codes."""
        if self.coding.scratch is not None:
            self.coding.scratch.mkdir(parents=True, exist_ok=True)
        folder_of_codes = tempfile.TemporaryDirectory(
            prefix="bitbudget-trials-", dir=self.coding.scratch
        )
        place = self._exit.enter_context(folder_of_codes)
        self._codes = CodeStore(Path(place))
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the codes and let go of the model."""
        self._close()
        self._exit.close()

    def code(self, picks: Sequence[Mapping[str, Format]]) -> Iterator[Module]:
        """Code every module in all the formats that `picks` need, and yield it once it is done."""
        for module in self.inventory.modules:
            self._code(module, {pick[module.path] for pick in picks})
            yield module

    def kl(self, formats: Mapping[str, Format], windows: Iterable[TeacherBatch]) -> MeasuredKl:
        """Return the KL of an allocation whose modules are coded each on its own."""
        self._store(self.inventory.modules, formats)
        return self._measured(windows)

    def kl_as_written(
        self,
        formats: Mapping[str, Format],
        windows: Iterable[TeacherBatch],
        place: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> MeasuredKl:
        """Return the KL of an allocation coded as its checkpoint is, layers in sequence.

        The model that was in memory makes room for them meanwhile, and is opened again.
        What was coded stays in `place`, where one is given: its checkpoint is written from that.
        `progress` is told layers coded and in all.
        """
        coding = self.coding
        what = (coding.checkpoint, self.inventory, formats, coding.encoder, coding.statistics)
        self._close()
        for module, arrays in written_arrays(*what, place=place, progress=progress):
            self._codes.put(module, formats[module.path], arrays, _WRITTEN)
        self._store(self.inventory.modules, formats, _WRITTEN)
        found = self._measured(windows)
        self._close()
        self._codes.drop(_WRITTEN)
        return found

    def group_costs(
        self, formats: Mapping[str, Format], progress: Callable[[int, int], None] | None = None
    ) -> GroupCosts:
        """Return what each decision group's error costs alone and beside the others."""
        windows = self.reference.probing
        groups = self.inventory.decision_groups()
        everything = self.inventory.modules
        kept = {module.path: KEEP for module in everything}
        total, done = 2 * len(groups), 0
        costs: list[dict[str, float]] = []
        whole = self.kl(formats, windows).mean
        for others, own in ((formats, kept), (kept, formats)):
            self._store(everything, others)
            found: dict[str, float] = {}
            for name, modules in groups.items():
                self._store(modules, own)
                found[name] = self._measured(windows).mean
                self._store(modules, others)
                done += 1
                if progress is not None:
                    progress(done, total)
            costs.append(found)
        beside = {name: max(whole - kl, 0.0) for name, kl in costs[0].items()}
        return GroupCosts(whole, alone=costs[1], beside=beside)

    @property
    def _model(self) -> Candidate:
        if self._opened is None:
            folder = self.coding.checkpoint.folder
            self._opened = open_candidate(folder, memory_bytes=self._memory_bytes)
        return self._opened

    def _close(self) -> None:
        """Let go of the model and what was replaced in it."""
        self._opened = None
        self._now.clear()

    def _measured(self, windows: Iterable[TeacherBatch]) -> MeasuredKl:
        found = [token_kl(batch, self._model, "a trial allocation") for batch in windows]
        return MeasuredKl(np.concatenate(found))

    def _store(
        self, modules: Sequence[Module], formats: Mapping[str, Format], variant: str = ""
    ) -> None:
        """Put what is stored of `modules` in the place of their weights."""
        wanted = {m.path: (formats[m.path], variant) for m in modules if formats[m.path] != KEEP}
        back = [m.path for m in modules if m.path not in wanted and m.path in self._now]
        self._model.restore(back)
        for path in back:
            del self._now[path]
        changed = {path: key for path, key in wanted.items() if self._now.get(path) != key}
        if not variant:
            for module in (m for m in modules if m.path in changed):
                self._code(module, {formats[module.path]})
        weight = self._codes.weight
        self._model.replace({path: partial(weight, path, *key) for path, key in changed.items()})
        self._now |= changed

    def _code(self, module: Module, formats: set[Format]) -> None:
        missing = sorted(f for f in formats - {KEEP} if not self._codes.holds(module.path, f))
        if missing:
            coding = self.coding
            known = coding.statistics.get(module.path)
            parts = coding.checkpoint.parts(module.path)
            found = stored_arrays(
                module, parts, missing, coding.encoder, known, sweeps=coding.sweeps
            )
            for format_, arrays in found.items():
                self._codes.put(module, format_, arrays)
