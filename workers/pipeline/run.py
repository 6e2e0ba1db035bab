"""A task under way: where files lie, how it is told, and what its steps have made so far."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from bitbudget.app.contract.home import Home
from bitbudget.workers.pipeline.report import Reporter

if TYPE_CHECKING:
    from pathlib import Path

    from bitbudget.app.contract.durations import Work
    from bitbudget.app.core.inventory import Inventory
    from bitbudget.app.core.measurement import Measurement
    from bitbudget.workers.models import Checkpoint
    from bitbudget.workers.pipeline.options import MeasureOptions

__all__ = [
    "AllocatedByCurves",
    "Delivered",
    "Measured",
    "Measurements",
    "Previewed",
    "Run",
    "Variant",
    "Variants",
]

_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True)
class Variant:
    """A model as it is or rotated; `options` say which, and how it is measured."""

    checkpoint: Checkpoint
    inventory: Inventory
    options: MeasureOptions


@dataclass(frozen=True, slots=True)
class Variants:
    """The models to measure: one, or with `rotation auto` all that stock mlx-lm can run."""

    all: tuple[Variant, ...]

    @property
    def last(self) -> Variant:
        """The only one, or the rotated one."""
        return self.all[-1]


@dataclass(frozen=True, slots=True)
class Measured:
    """A model with its measurement and the file that holds it."""

    variant: Variant
    measurement: Measurement
    path: Path


@dataclass(frozen=True, slots=True)
class Measurements:
    """What was measured, in the order of the variants."""

    all: tuple[Measured, ...]


@dataclass(frozen=True, slots=True)
class Previewed:
    """SHA-256 of the manifest of the first answer, None where its curves allowed none."""

    sha256: str | None


@dataclass(frozen=True, slots=True)
class AllocatedByCurves:
    """SHA-256 of the manifest that the curves alone gave."""

    sha256: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """A finished checkpoint: `file_bytes` is the sum over its `*.safetensors`."""

    folder: Path
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Run:
    """What every step is given.

    Options of the task and what steps made are kept by their type: at most one of each, of which
    the latest counts.

        run = Run(Home(folder), Reporter(print))
        run.keep(request)
        run[JobRequest].budget
    """

    home: Home
    report: Reporter
    _kept: dict[type, object] = field(default_factory=dict)

    def keep(self, *values: object) -> None:
        """Keep options of the task, or what a step made, for the steps to come."""
        self._kept.update((type(value), value) for value in values)

    def work_on(self, variant: Variant) -> Work:
        """Return the work at the effort that `variant` is measured with."""
        options = variant.options
        return replace(self.report.work, effort=options.effort, encoder=options.encoder)

    def __getitem__(self, kind: type[_Kind]) -> _Kind:
        """Return what is kept of a type; KeyError when no earlier step made it."""
        found = self.find(kind)
        if found is None:
            raise KeyError(kind.__name__)
        return found

    def find(self, kind: type[_Kind]) -> _Kind | None:
        """Return what is kept of a type, None where there is nothing."""
        found = self._kept.get(kind)
        return found if isinstance(found, kind) else None
