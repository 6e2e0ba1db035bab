"""Step recover: training after quantization, once per checkpoint; its record stays beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bitbudget.app.contract.reports import Recovery
from bitbudget.workers.pipeline.options import RecoverOptions
from bitbudget.workers.pipeline.run import Delivered, Run, Variant
from bitbudget.workers.recovery import RECORD, finish, has_room, recover, streams

__all__ = ["run_step"]

_STREAMED: Final = (
    "in float32 the model three times over takes more than half of this machine's memory: it is"
    " trained with the weights of one layer in memory at a time"
)

_TOO_LARGE: Final = (
    "in float32 the model three times over takes more than half of this machine's memory, and its"
    " layers form no chain that could be trained one by one: it is trained whole and may not fit"
)


def run_step(run: Run) -> Recovery:
    """Return what training the checkpoint won.

    `recovery.json` in the checkpoint tells a later run that this was done; what a killed run had
    decided is carried out first.
    """
    options, folder = run[RecoverOptions], run[Delivered].folder
    finish(folder)
    found = _record(folder)
    if found is None or found.how is not options.how:
        reference = run[Variant].checkpoint.folder
        if streamed := streams(folder, reference):
            run.report.log(_STREAMED)
        elif not has_room(reference):
            run.report.log(_TOO_LARGE)
        recover(
            folder,
            reference,
            options.how,
            streamed=streamed,
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
