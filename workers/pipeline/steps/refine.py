"""What a finished checkpoint loses corrects the predictions for the next budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from bitbudget.app.core.calibration import CheckpointKl
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.workers.pipeline.home import write_whole
from bitbudget.workers.pipeline.report import StepReport

__all__ = ["refine"]

_OWN_TEXT: Final = "rollouts"


def refine(
    stored: Path, manifest: Manifest, evaluation: Mapping[str, Any], report: StepReport
) -> None:
    """Refine the calibration of the measurement at `stored` by the evaluation of its checkpoint.

    Once for each manifest, and from the model's own text alone: held-out text calibrates nothing.
    The measurement is announced again, so that a server predicts its next answer as well.
    """
    mark = stored.parent / "refined" / manifest.sha256
    found = evaluation["sets"].get(_OWN_TEXT)
    if found is None or not stored.is_file():
        return
    if not mark.is_file():
        measurement = Measurement.from_json(stored.read_bytes())
        formats = {path: choice.format for path, choice in manifest.modules.items()}
        one = CheckpointKl(measurement.cost(formats), *_measured(found))
        better = replace(measurement, calibration=measurement.calibration.refined(one))
        write_whole(stored, better.to_json())
        write_whole(mark, b"")
    report.artifact(stored)


def _measured(found: Mapping[str, Any]) -> tuple[float, float]:
    """Return the KL in nats per token of one set of windows, and the standard error of its log."""
    windows, mean = np.asarray(found["kl_per_window"], np.float64), found["kl_nats_per_token"]
    if mean <= 0 or len(windows) < 2:  # noqa: PLR2004 - one window has no spread
        return mean, 0.0
    return mean, float(windows.std(ddof=1) / np.sqrt(len(windows))) / mean
