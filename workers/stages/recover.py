"""Training after quantization: once per checkpoint, and what it won is kept beside it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.core.requests import Recover
from app.leases.schemas import Stage
from workers.models import Checkpoint
from workers.recovery import recover
from workers.stages.home import write_whole
from workers.stages.report import Reporter

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

    `recovery.json` in the checkpoint tells a later run that this was done.
    """
    if how is Recover.NONE:
        return {}
    report = reporter.stage(Stage.QUANTIZE)
    path = folder / "recovery.json"
    if not path.is_file() or json.loads(path.read_text())["how"] != how.value:
        found = recover(
            folder,
            original.folder,
            how,
            seconds=seconds,
            seed=seed,
            progress=lambda done, total: report.progress(done, total, "seconds", "recovery"),
        )
        write_whole(path, (json.dumps(asdict(found), indent=1) + "\n").encode())
    result: dict[str, Any] = json.loads(path.read_text())
    if not result["changed"]:
        report.log("recovery found nothing better: the checkpoint is as it was")
    return {"recovery": result}
