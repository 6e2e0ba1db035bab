"""Stage fetch: from the name a user gave to a checkpoint on this machine."""

from __future__ import annotations

from pathlib import Path

from app.core.errors import InvalidModelError
from app.leases.schemas import Stage
from workers.models import Checkpoint, open_checkpoint
from workers.stages.home import Home
from workers.stages.report import Reporter

__all__ = ["fetch"]


def fetch(model: str, home: Home, reporter: Reporter) -> Checkpoint:
    """Return the checkpoint called `model`, a folder.

    Raises InvalidModelError when there is none or its files are unsound.
    """
    report = reporter.stage(Stage.FETCH)
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise InvalidModelError(
            where=model,
            found="no such folder",
            expected="a model folder or a Hub id org/name",
            remedy="check the path",
        )
    checkpoint = open_checkpoint(folder)
    total = sum(file.nbytes for file in checkpoint.files)
    checkpoint.identity(home.digests)
    report.progress(total, total)
    return checkpoint
