"""What a finished checkpoint loses corrects the predictions for the next budget."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from bitbudget.app.contract.reports import Evaluation, WindowScores
from bitbudget.app.core.calibration import CheckpointKl
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.workers.pipeline.files import write_whole
from bitbudget.workers.pipeline.run import Measured, Run

__all__ = ["refine"]

_OWN_TEXT: Final = "rollouts"


def refine(run: Run, evaluation: Evaluation) -> None:
    """Refine the calibration of the measurement behind the manifest by what its checkpoint loses.

    Once for each manifest, and from the model's own text alone: held-out text calibrates nothing.
    Nor does a KL calibrate shares of weight error, where those are what was minimised. The
    measurement is announced again, so that a server predicts its next answer as well.
    """
    stored, manifest = run[Measured].path, run[Manifest]
    mark = stored.parent / "refined" / manifest.sha256
    found = evaluation.sets.get(_OWN_TEXT)
    if found is None or not stored.is_file() or not manifest.objective.is_kl:
        return
    if not mark.is_file():
        measurement = Measurement.from_json(stored.read_bytes())
        one = CheckpointKl(measurement.cost(manifest.formats), *_measured(found))
        better = replace(measurement, calibration=measurement.calibration.refined(one))
        write_whole(stored, better.to_json())
        write_whole(mark, b"")
    run.report.artifact(stored)


def _measured(found: WindowScores) -> tuple[float, float]:
    """Return the KL in nats per token of one set of windows, and the standard error of its log."""
    windows, mean = np.asarray(found.kl_per_window, np.float64), found.kl_nats_per_token
    if mean <= 0 or len(windows) < 2:  # noqa: PLR2004 - one window has no spread
        return mean, 0.0
    return mean, float(windows.std(ddof=1) / np.sqrt(len(windows))) / mean
