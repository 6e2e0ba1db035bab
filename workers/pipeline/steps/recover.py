"""Step recover: training after quantization, once per checkpoint; its record stays beside it."""

from __future__ import annotations

from pathlib import Path

from bitbudget.app.contract.reports import Recovery
from bitbudget.workers.pipeline.options import RecoverOptions
from bitbudget.workers.pipeline.run import Delivered, Run, Variant
from bitbudget.workers.recovery import RECORD, finish, recover

__all__ = ["run_step"]


def run_step(run: Run) -> Recovery:
    """Return what training the checkpoint won.

    `recovery.json` in the checkpoint tells a later run that this was done; what a killed run had
    decided is carried out first.
    """
    options, folder = run[RecoverOptions], run[Delivered].folder
    finish(folder)
    found = _record(folder)
    if found is None or found.how is not options.how:
        recover(
            folder,
            run[Variant].checkpoint.folder,
            options.how,
            seconds=options.seconds,
            seed=options.seed,
            progress=lambda done, total: run.report.progress(done, total, "seconds"),
        )
        found = Recovery.model_validate_json((folder / RECORD).read_bytes())
    if not found.changed:
        run.report.log(
            f"recovery found nothing better ({found.ended}): the checkpoint is as it was"
        )
    return found


def _record(folder: Path) -> Recovery | None:
    path = folder / RECORD
    return Recovery.model_validate_json(path.read_bytes()) if path.is_file() else None
