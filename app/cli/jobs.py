"""`bitbudget jobs`, `label` and `cancel`: what a server has to do, named, and stopped."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from bitbudget.app.cli.completion import choices
from bitbudget.app.cli.labels import Tags
from bitbudget.app.cli.options import Json, Server, Token
from bitbudget.app.cli.output import say

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.jobs.schemas import Job
    from bitbudget.app.jobs.status import JobStatus

__all__ = ["cancel", "jobs", "label"]

_STATES = ("queued", "running", "succeeded", "failed", "cancelled")


def jobs(
    *,
    state: Annotated[
        str | None,
        typer.Option(help=", ".join(_STATES) + ".", autocompletion=choices(*_STATES)),
    ] = None,
    tag: Annotated[str | None, typer.Option(help="Only jobs with this tag.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The most to list.")] = 20,
    server: Server = "http://127.0.0.1:8765",
    token: Token = None,
    as_json: Json = False,
) -> None:
    """List a server's jobs, newest first."""
    from bitbudget.app.client.client import Client

    status = _status(state)
    with Client(server, token=token) as client:
        found = list(islice(client.jobs(status=status, tag=tag), limit))
    document = {"jobs": [job.model_dump(mode="json") for job in found]}
    say(document, as_json=as_json, render=lambda console: _print(console, found))


def label(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")],
    *,
    tag: Tags = None,
    note: Annotated[str | None, typer.Option(help="In place of the note there is.")] = None,
    server: Server = "http://127.0.0.1:8765",
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Change a job's tags or its note; `--tag ""` takes all tags away."""
    from bitbudget.app.cli.labels import change_of
    from bitbudget.app.client.client import Client

    change = change_of(tag, note)
    with Client(server, token=token) as client:
        found = client.label(job, change)

    def render(console: Console) -> None:
        said = [", ".join(found.tags) or "no tags", found.note or "no note"]
        console.print(f"{found.id}: {'; '.join(said)}", soft_wrap=True, markup=False)

    say(found.model_dump(mode="json"), as_json=as_json, render=render)


def cancel(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")],
    *,
    server: Server = "http://127.0.0.1:8765",
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Ask for a job to be stopped; one that has ended stays as it is."""
    from bitbudget.app.cli.revisions import kept_words
    from bitbudget.app.client.client import Client

    with Client(server, token=token) as client:
        found = client.cancel(job)

    def render(console: Console) -> None:
        asked = found.cancel_requested and not found.status.is_final
        said = "cancel requested, its worker stops within seconds" if asked else found.status.value
        kept = kept_words(found.answer, server, found.id)
        console.print(f"{found.id}: {said}{kept and f'; {kept}'}", soft_wrap=True)

    say(found.model_dump(mode="json"), as_json=as_json, render=render)


def _status(state: str | None) -> JobStatus | None:
    from bitbudget.app.core.errors import InvalidRequestError
    from bitbudget.app.jobs.status import JobStatus

    if state is None or state in _STATES:
        return None if state is None else JobStatus(state)
    raise InvalidRequestError(
        where="--state",
        found=repr(state),
        expected=f"one of {', '.join(_STATES)}",
        remedy="leave it out to list every job",
    )


def _print(console: Console, found: list[Job]) -> None:
    from bitbudget.app.cli.tables import listing

    if not found:
        console.print("no jobs; bitbudget submit MODEL --budget 5.5GiB makes one")
        return
    columns = ("id", "state", "model", "files", "bits/weight", "KL predicted", "tags")
    console.print(listing(columns, [_row(job) for job in found], copied=1))


def _row(job: Job) -> tuple[str, ...]:
    from bitbudget.app.core.sizes import format_size

    state = job.status.value
    if job.progress is not None and not job.status.is_final:
        state += f" {job.progress.job_fraction:.0%}"
    name = job.request.model.rstrip("/").rsplit("/", 1)[-1]
    if job.answer is None:
        return (job.id, state, name, "", "", "", " ".join(job.tags))
    answer = job.answer
    return (
        job.id,
        state,
        name,
        format_size(answer.file_bytes),
        f"{answer.bits_per_weight:.2f}",
        f"{answer.predicted_kl_nats_per_token:.3g}",
        " ".join(job.tags),
    )
