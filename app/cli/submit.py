"""`bitbudget submit` and `watch`: a job on a server, followed live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bitbudget.app.cli.grouped import grouped
from bitbudget.app.cli.labels import Tags
from bitbudget.app.cli.options import (
    AllocationOptions,
    GivenMeasurement,
    Json,
    MeasureOptions,
    Model,
    Preview,
    Recover,
    Relinearize,
    Server,
    Token,
)
from bitbudget.app.cli.output import say, stderr

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.jobs.schemas import Job

__all__ = ["raise_if_unfinished", "submit", "watch"]


@grouped
def submit(
    model: Model,
    *,
    server: Server = "http://127.0.0.1:8765",
    token: Token = None,
    budget: AllocationOptions,
    measuring: MeasureOptions,
    measurement: GivenMeasurement = None,
    deliver: Annotated[str, typer.Option(help="manifest or checkpoint.")] = "manifest",
    recover: Recover = None,
    relinearize: Relinearize = None,
    preview: Preview = None,
    tag: Tags = None,
    note: Annotated[str, typer.Option(help="A note that the job's page shows.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job until it ends.")] = False,
    as_json: Json = False,
) -> None:
    """Submit a job to a server; on a model measured before, it is answered at once."""
    from bitbudget.app.cli.following import follow
    from bitbudget.app.cli.labels import labels_of
    from bitbudget.app.cli.measurement import given_to_server
    from bitbudget.app.client.client import Client

    with Client(server, token=token, told=_say_note) as client:
        given = None
        if measurement is not None:
            measuring, given = given_to_server(client, measurement, model, measuring)
        request = measuring.job(
            model,
            budget,
            deliver=deliver,
            recover=recover,
            relinearize=relinearize,
            preview=preview,
            measurement=given,
        )
        job = client.submit(request, labels=labels_of(tag or (), note))
        if wait:
            job = follow(client, job.id, server)
        _tell(job, server, as_json=as_json)


def watch(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")],
    *,
    server: Server = "http://127.0.0.1:8765",
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Follow a job until it ends."""
    from bitbudget.app.cli.following import follow
    from bitbudget.app.client.client import Client

    with Client(server, token=token, told=_say_note) as client:
        _tell(follow(client, job, server), server, as_json=as_json)


def _say_note(said: str) -> None:
    stderr().print(said, soft_wrap=True)


def raise_if_unfinished(job: Job, server: str) -> None:
    """Raise what a failed job met, or JobCancelledError; say which answer is kept."""
    from bitbudget.app.cli.failures import ChildFailedError, JobCancelledError
    from bitbudget.app.cli.revisions import kept_words

    kept = kept_words(job.answer, server, job.id)
    if job.problem is not None:
        if kept:
            _say_note(kept)
        raise ChildFailedError(job.problem, job=job.id)
    if job.status == "cancelled":
        raise JobCancelledError(job=job.id, kept=kept or "it had no answer yet")


def _tell(job: Job, server: str, *, as_json: bool) -> None:
    raise_if_unfinished(job, server)
    say(
        job.model_dump(mode="json"),
        as_json=as_json,
        render=lambda console: _print(console, job, server),
    )


def _print(console: Console, job: Job, server: str) -> None:
    from bitbudget.app.cli.tables import exact, facts
    from bitbudget.app.core.sensitivity import objective_of

    goal = objective_of(job.request.sensitivity)
    rows = {"job": job.id, "state": job.status.value, "page": f"{server}/jobs/{job.id}"}
    if job.tags:
        rows["tags"] = ", ".join(job.tags)
    if job.request.measurement is not None:
        rows["measured"] = f"elsewhere: {server}/v1/measurements/{job.request.measurement}"
    if job.answer is not None:
        rows |= {
            "files": exact(job.answer.file_bytes),
            "budget": exact(job.answer.budget_bytes),
            goal.label: f"{job.answer.predicted_kl_nats_per_token:.6f} {goal.unit}",
            "bits per weight": f"{job.answer.bits_per_weight:.3f}",
            "lower bound": f"{job.answer.bound:.6f}, gap {job.answer.gap:.2e}",
            "answer": f"{job.answer.revision}, at {job.answer.effort.value} effort",
            "manifest": f"{server}/v1/jobs/{job.id}/manifest",
        }
    if job.result is not None and job.result.checkpoint is not None:
        rows["checkpoint"] = job.result.checkpoint
    if not job.status.is_final:
        rows["follow it"] = f"bitbudget watch {job.id} --server {server}"
    console.print(facts(rows))
