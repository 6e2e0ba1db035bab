"""`bitbudget run`: measure, allocate, quantize and evaluate here, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitbudget.app.cli.grouped import grouped
from bitbudget.app.cli.options import (
    OUTPUT_NAMES,
    AllocationOptions,
    GivenMeasurement,
    Json,
    MeasureOptions,
    Model,
    Preview,
    Recover,
    RecoverSeconds,
    Relinearize,
    disk_limit_bytes,
)
from bitbudget.app.cli.output import say

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.contract.events import Event
    from bitbudget.app.contract.reports import JobResult, Revision
    from bitbudget.app.core.requests import JobRequest

__all__ = ["run"]


@grouped
def run(
    model: Model,
    *,
    output: Annotated[Path, typer.Option(*OUTPUT_NAMES, help="Folder to write.")],
    budget: AllocationOptions,
    measuring: MeasureOptions,
    measurement: GivenMeasurement = None,
    recover: Recover = None,
    recover_seconds: RecoverSeconds = 300.0,
    relinearize: Relinearize = None,
    preview: Preview = None,
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline/--no-baseline", help="Also make and evaluate uniform 4-bit at equal bytes."
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Do all of it: the best checkpoint of MODEL within the budget, measured and proven."""
    from bitbudget.app.cli.child import home, measurement_repositories, run_with_progress
    from bitbudget.app.contract.reports import JobResult
    from bitbudget.app.contract.tasks import JobTask
    from bitbudget.app.core.requests import Deliver

    taken = None
    if measurement is not None:
        from bitbudget.app.cli.measurement import import_measurement, measured_so

        taken = import_measurement(measurement, model, measuring)
        measuring = measured_so(measuring, taken)
    task = JobTask(
        home=home(),
        request=measuring.job(
            model,
            budget,
            deliver=Deliver.CHECKPOINT,
            recover=recover,
            recover_seconds=recover_seconds,
            relinearize=relinearize,
            preview=preview,
        ),
        output=str(output.resolve()),
        disk_limit_bytes=disk_limit_bytes(measuring.disk_limit),
        baseline=baseline,
        measurement=None if taken is None else taken.measurement,
        measurement_repositories=measurement_repositories(),
    )
    answers: list[Revision] = []

    def note(event: Event) -> None:
        if event.kind == "answered":
            answers.append(event.answer)

    result = run_with_progress(task, JobResult, "run", note)
    revisions = [answer.model_dump(mode="json") for answer in answers]
    say(
        {**result.model_dump(mode="json"), "revisions": revisions},
        as_json=as_json,
        render=lambda console: _print(console, result, task.request),
    )


def _print(console: Console, result: JobResult, request: JobRequest) -> None:
    from bitbudget.app.cli.allocate import print_manifest
    from bitbudget.app.cli.checkpoint import print_evaluation, print_recovery
    from bitbudget.app.cli.ending import print_comparison, print_next
    from bitbudget.app.cli.manifest import load_manifest

    manifest = load_manifest(Path(result.manifest))
    print_manifest(console, manifest)
    if result.evaluation is not None:
        console.print()
        print_evaluation(console, result.evaluation)
        print_recovery(console, result.recovery)
    if result.baseline is not None:
        print_comparison(console, result.baseline, manifest.encoder.value)
    print_next(console, result.checkpoint or "", request)
