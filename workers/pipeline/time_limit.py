"""The best effort that fits the time a task allows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bitbudget.app.contract.durations import Work
from bitbudget.app.contract.steps import Step, possible_steps
from bitbudget.app.core.duration import duration_words
from bitbudget.app.core.effort import EFFORTS, Effort, efforts_up_to
from bitbudget.app.core.errors import TooLittleTimeError
from bitbudget.app.core.recover import Recover
from bitbudget.app.core.requests import JobRequest
from bitbudget.workers.pipeline.options import (
    BenchmarkOptions,
    EvaluateOptions,
    MeasureOptions,
    PreviewOptions,
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


def _seconds(run: Run, effort: Effort) -> float:
    request, work = run.find(JobRequest), _work(run, effort)
    steps: tuple[Step, ...] = (Step.FETCH, Step.INVENTORY, Step.PREVIEW, Step.MEASURE)
    if request is not None:
        steps = possible_steps(request.at_effort(effort))
    elif run.find(PreviewOptions) is None:
        steps = (Step.FETCH, Step.INVENTORY, Step.MEASURE)
    return sum(step.seconds(work) for step in steps)


def _work(run: Run, effort: Effort) -> Work:
    encoder = run[MeasureOptions].at_effort(effort).encoder
    return replace(run.report.work, effort=effort, encoder=encoder, download_bytes=0)


def _take(run: Run, effort: Effort) -> None:
    work, request = _work(run, effort), run.find(JobRequest)
    run.report.weigh(effort=effort, encoder=work.encoder)
    run.keep(run[MeasureOptions].at_effort(effort))
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
