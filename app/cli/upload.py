"""`bitbudget upload`: publish a checkpoint, or a measurement, on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitbudget.app.cli.options import Json
from bitbudget.app.cli.output import say

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["upload"]


def upload(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT|FILE", help="A checkpoint's folder, or a measurement."),
    ],
    repository: Annotated[
        str, typer.Argument(metavar="[datasets/]ORG/NAME", help="Where it goes.")
    ],
    *,
    measurement: Annotated[
        bool,
        typer.Option(
            "--measurement", help="Upload what bitbudget measurement export wrote, with a card."
        ),
    ] = False,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
    as_json: Json = False,
) -> None:
    """Upload weights, manifest and model card in one commit, with the token in HF_TOKEN.

    With --measurement upload a measurement, for all who have the same weights.
    """
    from bitbudget.app.cli.child import home, run_with_progress
    from bitbudget.app.contract.reports import UploadResult
    from bitbudget.app.contract.tasks import UploadTask

    task = UploadTask(
        home=home(),
        checkpoint=str(checkpoint.resolve()),
        repository=repository,
        private=not public,
        is_measurement=measurement,
    )
    result = run_with_progress(task, UploadResult, "upload")

    def render(console: Console) -> None:
        console.print(f"{result.files} files, {result.bytes:,} bytes: {result.url}")

    say(result.model_dump(mode="json"), as_json=as_json, render=render)
