"""Step preview: a first answer at quick effort, before the measurement that is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from bitbudget.app.contract.durations import is_previewed, preview_s
from bitbudget.app.core.duration import duration_words
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.sensitivity import Sensitivity
from bitbudget.workers.pipeline.measuring.elsewhere import KnownMeasurement, take_from_elsewhere
from bitbudget.workers.pipeline.options import GivenMeasurement, PreviewOptions
from bitbudget.workers.pipeline.run import Previewed, Run, Variant, Variants
from bitbudget.workers.pipeline.steps.allocate import answered_manifest, keep_manifest
from bitbudget.workers.pipeline.steps.measure import (
    measured,
    measurement_path,
    tell_duration,
    with_own_text,
)

__all__ = ["is_needed", "run_step"]

_MEASUREMENT: Final = "first_measurement.json"
_MANIFEST: Final = "first_manifest.json"


@dataclass(frozen=True, slots=True)
class _Quick:
    """The model at quick effort: of several variants the last, whose inventory is announced."""

    variant: Variant


def is_needed(run: Run) -> bool:
    """Return whether a first answer is worth its time, or there at once from an earlier run.

    It is not needed where the measurement that is asked for is there already.
    """
    how, asked = run[Variants].last.options, run.find(PreviewOptions)
    if asked is None or asked.wanted is False:
        return False
    if run.find(GivenMeasurement) is not None or run.find(KnownMeasurement) is not None:
        return False
    if how.effort is Effort.QUICK or how.sensitivity is not Sensitivity.FISHER:
        return False
    wanted, _ = with_own_text(run[Variants].last)
    path = measurement_path(run, wanted)
    if not path.is_file():
        take_from_elsewhere(run, wanted, path)
    if path.is_file():
        return False
    run.keep(_Quick(replace(wanted, options=wanted.options.at_effort(Effort.QUICK))))
    return _is_measured(run) or is_previewed(run.report.work)


def run_step(run: Run) -> Previewed:
    """Measure at quick effort and allocate; announce both files, and the manifest as an answer.

    Curves at quick effort may allow no answer where the wanted ones do: then there is none yet.
    """
    if _is_measured(run):
        run.report.weigh(preview=False)
    else:
        seconds = preview_s(run.report.work)
        run.report.log(f"first, at effort quick: about {duration_words(seconds)} to an answer")
    tell_duration(run, run[Variants].last)
    first = measured(run, run[_Quick].variant)
    run.report.artifact(first.path, _MEASUREMENT)
    try:
        manifest = answered_manifest(run, first.measurement, run[PreviewOptions].request)
    except InfeasibleBudgetError as error:
        run.report.log(f"no first answer: {error}")
        return Previewed(None)
    keep_manifest(run, manifest, _MANIFEST)
    return Previewed(manifest.sha256)


def _is_measured(run: Run) -> bool:
    return measurement_path(run, run[_Quick].variant).is_file()
