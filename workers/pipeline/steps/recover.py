"""Training after quantization: once per checkpoint, and what it won is kept beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bitbudget.app.contract.steps import Step
from bitbudget.app.core.requests import Recover
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.pipeline.report import Reporter
from bitbudget.workers.recovery import RECORD, finish, recover

__all__ = ["recover_checkpoint"]


def recover_checkpoint(
    folder: Path,
    original: Checkpoint,
    how: Recover,
    reporter: Reporter,
    *,
    seconds: float,
    seed: int = 0,
) -> dict[str, Any]:
    """Return {"recovery": ...}, empty when none is asked for.

    `recovery.json` in the checkpoint tells a later run that this was done; what a killed run had
    decided is carried out first.
    """
    finish(folder)
    if how is Recover.NONE:
        return {}
    report = reporter.step(Step.QUANTIZE)
    path = folder / RECORD
    if not path.is_file() or json.loads(path.read_text())["how"] != how.value:
        recover(
            folder,
            original.folder,
            how,
            seconds=seconds,
            seed=seed,
            progress=lambda done, total: report.progress(done, total, "seconds", "recovery"),
        )
    result: dict[str, Any] = json.loads(path.read_text())
    if not result["changed"]:
        report.log(
            f"recovery found nothing better ({result['ended']}): the checkpoint is as it was"
        )
    return {"recovery": result}
