"""The files of a finished checkpoint, where this server's own home holds them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bitbudget.app.auth.principal import Principal
from bitbudget.app.contract.home import Folder, Home
from bitbudget.app.contract.reports import JobResult
from bitbudget.app.core.errors import ConflictError, NotFoundError
from bitbudget.app.jobs import repository
from bitbudget.app.jobs.access import check_owner
from bitbudget.app.jobs.schemas import CheckpointFile, CheckpointFiles
from bitbudget.app.jobs.tables import JobRow
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.stored import read_stored

__all__ = ["Checkpoints", "checkpoint_result", "finished_result"]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_MOST_FILES: Final = 1024


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Checkpoints in `home`, found by the digest of their manifest: no path comes from a caller."""

    database: Database
    home: Path

    def files(self, job_id: str, principal: Principal) -> CheckpointFiles:
        """Return name and bytes of each file of a job's checkpoint.

        ForbiddenError unless the caller submitted the job or is an admin, ConflictError where
        there is no checkpoint or another machine holds it.
        """
        folder = self._folder(job_id, principal)
        sizes = {path.name: path.stat().st_size for path in _whole_files(folder)}
        listed = [CheckpointFile(name=name, bytes=sizes[name]) for name in sorted(sizes)]
        return CheckpointFiles(files=listed[:_MOST_FILES])

    def file(self, job_id: str, name: str, principal: Principal) -> Path:
        """Return where one of `files` lies; NotFoundError when there is none of that name."""
        folder = self._folder(job_id, principal)
        found = [path for path in _whole_files(folder) if path.name == name]
        if not found:
            raise NotFoundError(what="file of this checkpoint", name=name)
        return found[0]

    def _folder(self, job_id: str, principal: Principal) -> Path:
        with self.database.read() as session:
            job = repository.get(session, job_id)
            check_owner(job, principal)
            result = finished_result(job)
        folder = self._held(result.sha256)
        if folder is None:
            raise ConflictError(
                what="Job",
                name=job_id,
                reason="its checkpoint is not on the server but with the worker that made it",
                remedy=f"copy {result.checkpoint} from there, or publish it from there",
            )
        return folder

    def _held(self, sha256: str) -> Path | None:
        """Return the folder, None where there is none or a link leads out of the home."""
        found = Home(self.home).finished_checkpoint(sha256)
        root = Folder.CHECKPOINTS.under(self.home).resolve()
        if found is None or not found.resolve().is_relative_to(root):
            return None
        return found.resolve()


def checkpoint_result(job: JobRow) -> JobResult | None:
    """Return the result of a job that made a checkpoint, None of every other."""
    result = None if job.result is None else read_stored(JobResult, job.result, f"job {job.id}")
    if result is None or result.checkpoint is None or job.worker_id is None:
        return None
    return result


def finished_result(job: JobRow) -> JobResult:
    """Return the result of a job that made a checkpoint; ConflictError for every other."""
    result = checkpoint_result(job)
    if result is None:
        raise ConflictError(
            what="Job",
            name=job.id,
            reason="it has no checkpoint",
            remedy="submit it with deliver: checkpoint",
        )
    return result


def _whole_files(folder: Path) -> list[Path]:
    """Return the plain files of a checkpoint: none that is hidden, a link or in a folder."""
    return [
        path
        for path in folder.iterdir()
        if _NAME.fullmatch(path.name) and not path.is_symlink() and path.is_file()
    ]
