"""Step fetch: from the name a user gave to a checkpoint on this machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bitbudget.app.core.hub_id import HubId
from bitbudget.app.core.requests import Rotation
from bitbudget.workers.files.limits import reading
from bitbudget.workers.files.place import model_place
from bitbudget.workers.models import Checkpoint, build_inventory, open_checkpoint
from bitbudget.workers.pipeline.measuring.elsewhere import KnownMeasurement, known_measurement
from bitbudget.workers.pipeline.options import FetchOptions, MeasureOptions, StatedBudget
from bitbudget.workers.pipeline.report import Reporter
from bitbudget.workers.pipeline.run import Run
from bitbudget.workers.pipeline.steps.inventory import check_budget
from bitbudget.workers.pipeline.time_limit import TimeLimit

__all__ = ["run_step"]


def run_step(run: Run) -> Checkpoint:
    """Return the checkpoint that the options name: a folder, or a Hub id that is downloaded.

    With `identify` the files of a folder are hashed now, if they are not known; without, when
    somebody asks for the identity.

    Raises InvalidModelError when there is none or its files are unsound, what the Hub raises, and
    InfeasibleBudgetError where a model on the Hub cannot be stored in the stated budget: then its
    headers were read, and no weight.
    """
    options = run[FetchOptions]
    checkpoint = (
        _headers(options)
        if options.headers_only
        else _measured_before(options, run) or _whole(options, run)
    )
    if options.name:
        checkpoint = replace(checkpoint, name=options.name)
    for note in checkpoint.notes:
        run.report.log(note)
    if options.headers_only:
        run.report.progress(1, 1, "models")
        return checkpoint
    total = sum(file.nbytes for file in checkpoint.files)
    if options.identify:
        checkpoint.identity(run.home.digests)
    run.report.progress(total, total)
    return checkpoint


def _whole(options: FetchOptions, run: Run) -> Checkpoint:
    place = _place(options)
    if isinstance(place, Path):
        with reading():
            checkpoint = open_checkpoint(
                place, options.name, allow_quantized_source=options.allow_quantized_source
            )
            _check_unless_measured(checkpoint, run)
            return checkpoint
    from bitbudget.workers.hub.client import Hub  # noqa: PLC0415, a local folder needs no network
    from bitbudget.workers.hub.source import open_remote  # noqa: PLC0415, as above

    return open_remote(
        Hub(),
        place,
        run.home.folder,
        disk_limit_bytes=options.disk_limit_bytes,
        whole=options.whole,
        allow_quantized_source=options.allow_quantized_source,
        check=partial(_check, run),
        progress=_Files(run.report),
    )


def _check_unless_measured(checkpoint: Checkpoint, run: Run) -> None:
    """Build what the configuration describes, where no step inventory follows that does."""
    if run.find(MeasureOptions) is None:
        checkpoint.model_without_weights()


def _check(run: Run, outline: Checkpoint) -> None:
    """Raise what the headers say already: InfeasibleBudgetError for a budget that cannot be."""
    with reading():
        _check_unless_measured(outline, run)
    measuring = run.find(MeasureOptions)
    if run.find(StatedBudget) is None or measuring is None:
        return
    if measuring.rotation in {Rotation.NONE, Rotation.AUTO}:
        with reading():
            check_budget(run, build_inventory(outline))


def _measured_before(options: FetchOptions, run: Run) -> Checkpoint | None:
    """Return a model on the Hub by its headers, where nobody needs more: it is measured."""
    measuring = run.find(MeasureOptions)
    is_asked_for = options.only_measures and run.find(TimeLimit) is None
    is_here = isinstance(_place(options), Path)
    if is_here or not is_asked_for or measuring is None or measuring.is_rotated:
        return None
    outline = _headers(options)
    if run.find(KnownMeasurement) is not None:
        return outline
    path = known_measurement(run, outline.identity(), measuring)
    if path is None:
        return None
    run.keep(KnownMeasurement(path))
    return outline


def _headers(options: FetchOptions) -> Checkpoint:
    """Return the checkpoint that is asked for as its headers tell it; no weight is read."""
    allow = options.allow_quantized_source
    place = _place(options)
    if isinstance(place, Path):
        with reading():
            return open_checkpoint(place, allow_quantized_source=allow)
    from bitbudget.workers.hub.client import Hub  # noqa: PLC0415, a local folder needs no network
    from bitbudget.workers.hub.source import open_remote_headers  # noqa: PLC0415, as above

    return open_remote_headers(Hub(), place, allow_quantized_source=allow)


def _place(options: FetchOptions) -> Path | HubId:
    return model_place(options.model, names_are_ids=options.names_are_ids)


@dataclass
class _Files:
    """Adds the progress of single files up to that of the step."""

    report: Reporter

    def __post_init__(self) -> None:
        self._done: dict[str, int] = {}
        self._total: dict[str, int] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        self._done[name], self._total[name] = done, total
        self.report.progress(sum(self._done.values()), sum(self._total.values()) + 1, detail=name)
