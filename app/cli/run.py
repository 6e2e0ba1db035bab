"""`bitbudget run`: measure, allocate, quantize and evaluate here, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitbudget.app.cli.grouped import grouped
from bitbudget.app.cli.options import (
    AllocationOptions,
    Json,
    MeasureOptions,
    Model,
    Relinearize,
    disk_limit_bytes,
)
from bitbudget.app.cli.output import say

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.contract.reports import JobResult

__all__ = ["run"]


@grouped
def run(
    model: Model,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    budget: AllocationOptions,
    measuring: MeasureOptions,
    recover: Annotated[
        str | None,
        typer.Option(help="Training after it: none, scales or qad (default: the effort's)."),
    ] = None,
    recover_seconds: Annotated[float, typer.Option(help="The most it may take.")] = 300.0,
    relinearize: Relinearize = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Also evaluate uniform 4-bit at equal bytes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Do all of it: the best checkpoint of MODEL within the budget, measured and proven."""
    from bitbudget.app.cli.child import home, run_with_progress
    from bitbudget.app.contract.reports import JobResult
    from bitbudget.app.contract.tasks import JobTask
    from bitbudget.app.core.requests import Deliver

    task = JobTask(
        home=home(),
        request=measuring.job(
            model,
            budget,
            deliver=Deliver.CHECKPOINT,
            recover=recover,
            recover_seconds=recover_seconds,
            relinearize=relinearize,
        ),
        output=str(output.resolve()),
        disk_limit_bytes=disk_limit_bytes(measuring.disk_limit),
        baseline=baseline,
    )
    result = run_with_progress(task, JobResult, "run")
    say(
        result.model_dump(mode="json"),
        as_json=as_json,
        render=lambda console: _print(console, result),
    )


def _print(console: Console, result: JobResult) -> None:
    from bitbudget.app.cli.allocate import print_manifest
    from bitbudget.app.cli.checkpoint import print_evaluation, print_recovery
    from bitbudget.app.cli.manifest import load_manifest

    print_manifest(console, load_manifest(Path(result.manifest)))
    if result.evaluation is not None:
        console.print()
        print_evaluation(console, result.evaluation)
        print_recovery(console, result.recovery)
    console.print(f"\ncheckpoint: {result.checkpoint}", soft_wrap=True)
    console.print(f"manifest:   {result.manifest}", soft_wrap=True)
