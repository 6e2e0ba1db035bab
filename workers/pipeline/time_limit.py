"""The best effort that fits the time a task allows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bitbudget.app.contract.durations import Work
from bitbudget.app.contract.steps import Step, possible_steps
from bitbudget.app.core.duration import duration_words
from bitbudget.app.core.effort import EFFORTS, Effort, efforts_up_to
from bitbudget.app.core.encoders import usable_encoder
from bitbudget.app.core.errors import TooLittleTimeError
from bitbudget.app.core.recover import Recover
from bitbudget.app.core.requests import JobRequest
from bitbudget.workers.pipeline.options import (
    BenchmarkOptions,
    EvaluateOptions,
    MeasureOptions,
    RecoverOptions,
)
from bitbudget.workers.pipeline.run import Run

__all__ = ["TimeLimit", "keep_within"]


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """The most that a task may take, as it is estimated before the model is run."""

    minutes: float


def keep_within(run: Run) -> None:
    """Let the options of `run` be those of the best effort that fits its TimeLimit, if it has one.

    Raises TooLittleTimeError with the estimate for the least effort when not even that one fits.
    """
    limit, options = run.find(TimeLimit), run[MeasureOptions]
    if limit is None:
        return
    seconds = 0.0
    for effort in efforts_up_to(options.effort):
        seconds = _seconds(run, effort)
        if seconds <= 60 * limit.minutes:
            _take(run, effort)
            run.report.log(
                f"effort {effort}: the best that fits {limit.minutes:g} minutes, it takes about"
                f" {duration_words(seconds)}"
            )
            return
    raise TooLittleTimeError(
        max_minutes=limit.minutes, needed_minutes=seconds / 60, effort=Effort.QUICK.value
    )


def _at(options: MeasureOptions, effort: Effort) -> MeasureOptions:
    """Return the options at another effort; a stated encoder stays."""
    default = usable_encoder(EFFORTS[options.effort].encoder, options.sensitivity)
    follows = options.encoder is default
    encoder = usable_encoder(EFFORTS[effort].encoder, options.sensitivity)
    return replace(options, effort=effort, encoder=encoder if follows else options.encoder)


def _seconds(run: Run, effort: Effort) -> float:
    request = run.find(JobRequest)
    steps = (
        (Step.FETCH, Step.INVENTORY, Step.MEASURE)
        if request is None
        else possible_steps(request.at_effort(effort))
    )
    work = _work(run, effort)
    return sum(step.seconds(work) for step in steps)


def _work(run: Run, effort: Effort) -> Work:
    encoder = _at(run[MeasureOptions], effort).encoder
    return replace(run.report.work, effort=effort, encoder=encoder, download_bytes=0)


def _take(run: Run, effort: Effort) -> None:
    work, request = _work(run, effort), run.find(JobRequest)
    run.report.weigh(effort=effort, encoder=work.encoder)
    run.keep(_at(run[MeasureOptions], effort))
    if request is None:
        return
    request = request.at_effort(effort)
    if request.recover is Recover.NONE:
        run.report.weigh(recover_seconds=0.0)
    run.keep(
        request,
        replace(run[RecoverOptions], how=request.recover),
        replace(run[EvaluateOptions], effort=effort),
        BenchmarkOptions(most_seconds_on_cpu=EFFORTS[effort].benchmark_seconds),
    )
