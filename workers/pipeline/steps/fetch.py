"""Step fetch: from the name a user gave to a checkpoint on this machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bitbudget.app.contract.steps import Step
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.hub_id import HubId
from bitbudget.workers.models import Checkpoint, open_checkpoint
from bitbudget.workers.pipeline.home import Home
from bitbudget.workers.pipeline.report import Reporter, StepReport

__all__ = ["Source", "fetch", "fetch_headers"]


@dataclass(frozen=True, slots=True)
class Source:
    """What a user says of a model: how it is called, and whether it may be quantized already."""

    name: str | None = None
    allow_quantized_source: bool = False


def fetch(
    model: str,
    home: Home,
    reporter: Reporter,
    *,
    disk_limit_bytes: int | None = None,
    whole: bool = True,
    identify: bool = True,
    source: Source | None = None,
) -> Checkpoint:
    """Return the checkpoint called `model`: a folder, or a Hub id that is downloaded.

    `whole` says that all weights are needed at once, which `disk_limit_bytes` must allow. With
    `identify` the files of a folder are hashed now, if they are not known; without, when somebody
    asks for the identity. `source` is what the user says of the model.

    Raises InvalidModelError when there is none or its files are unsound, and what the Hub raises.
    """
    report = reporter.step(Step.FETCH)
    folder = Path(model).expanduser()
    if folder.is_dir():
        known = source or Source()
        checkpoint = open_checkpoint(
            folder, known.name, allow_quantized_source=known.allow_quantized_source
        )
    else:
        from bitbudget.workers.hub.client import Hub  # noqa: PLC0415, a local folder needs no network
        from bitbudget.workers.hub.source import open_remote  # noqa: PLC0415, as above

        checkpoint = open_remote(
            Hub(),
            _hub_id(model),
            home.folder,
            disk_limit_bytes=disk_limit_bytes,
            whole=whole,
            progress=_Files(report),
        )
    if source is not None and source.name:
        checkpoint = replace(checkpoint, name=source.name)
    for note in checkpoint.notes:
        report.log(note)
    total = sum(file.nbytes for file in checkpoint.files)
    if identify:
        checkpoint.identity(home.digests)
    report.progress(total, total)
    return checkpoint


def fetch_headers(model: str, reporter: Reporter) -> Checkpoint:
    """Return the checkpoint called `model` as its headers tell it; no weight is read."""
    report = reporter.step(Step.FETCH)
    folder = Path(model).expanduser()
    checkpoint = open_checkpoint(folder) if folder.is_dir() else _remote_headers(model)
    for note in checkpoint.notes:
        report.log(note)
    report.progress(1, 1, "models")
    return checkpoint


def _remote_headers(model: str) -> Checkpoint:
    from bitbudget.workers.hub.client import Hub  # noqa: PLC0415, a local folder needs no network
    from bitbudget.workers.hub.source import open_remote_headers  # noqa: PLC0415, as above

    return open_remote_headers(Hub(), _hub_id(model))


def _hub_id(model: str) -> HubId:
    if not HubId.matches(model):
        raise InvalidModelError(
            where=model,
            found="no such folder",
            expected="a model folder or a Hub id org/name[@revision]",
            remedy="check the path",
        )
    return HubId.parse(model)


class _Files:
    """Adds the progress of single files up to that of the step."""

    def __init__(self, report: StepReport) -> None:
        self._report = report
        self._done: dict[str, int] = {}
        self._total: dict[str, int] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        self._done[name], self._total[name] = done, total
        self._report.progress(sum(self._done.values()), sum(self._total.values()) + 1, detail=name)
