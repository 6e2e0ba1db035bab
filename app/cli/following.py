"""A job on a server followed from its place in the queue to its end."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Final

import typer
from pydantic import ValidationError

from bitbudget.app.cli.output import INTERRUPTED, stderr
from bitbudget.app.cli.progress import ProgressView
from bitbudget.app.cli.revisions import manifest_address
from bitbudget.app.contract.events import Answered, Logged, Progressed
from bitbudget.app.contract.reports import Revision
from bitbudget.app.jobs.status import EventKind, JobStatus

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.client.client import Client
    from bitbudget.app.contract.events import Event
    from bitbudget.app.jobs.schemas import Job, JobEvent

__all__ = ["as_progress", "follow"]

_LOOK_SECONDS: Final = 2.0


def follow(client: Client, job_id: str, server: str) -> Job:
    """Draw a job's queue place and events until it ends, and return it as it ended.

    An interrupt ends the watching and not the job; how to come back is said then.
    """
    console = stderr()
    console.print(f"job {job_id}", soft_wrap=True)
    try:
        _wait_in_queue(client, job_id, server, console)
        with ProgressView(console) as view:
            told = client.events(job_id, told=lambda said: view(Logged(detail=said)))
            for event in told:
                shown = as_progress(event, server)
                if shown is not None:
                    view(shown)
    except KeyboardInterrupt:
        at = shlex.quote(server)
        console.print("\nNo longer watching; the job goes on.")
        console.print(f"come back: bitbudget watch {job_id} --server {at}", soft_wrap=True)
        console.print(f"stop it:   bitbudget cancel {job_id} --server {at}", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    return client.job(job_id)


def _wait_in_queue(client: Client, job_id: str, server: str, console: Console) -> None:
    """Say what a queued job waits for, until it does not wait any more."""
    said = ""
    while client.job(job_id).status is JobStatus.QUEUED:
        now = _waiting_words(client, job_id, server)
        if now != said:
            console.print(now, soft_wrap=True)
            said = now
        time.sleep(_LOOK_SECONDS)


def _waiting_words(client: Client, job_id: str, server: str) -> str:
    ahead = sum(job.id < job_id for job in client.jobs(status=JobStatus.QUEUED))
    place = "next in the queue" if not ahead else f"{ahead} in the queue before it"
    workers = [worker for worker in client.workers() if worker.online]
    if not workers:
        start = f"bitbudget worker --server {shlex.quote(server)}"
        return f"queued, {place}; no worker is online: start one with {start}"
    busy = sum(worker.job_id is not None for worker in workers)
    return f"queued, {place}; {len(workers)} workers online, {busy} at work"


def as_progress(event: JobEvent, server: str) -> Event | None:
    """Return what is shown of an event of a job; nothing of it fails for what cannot be read."""
    try:
        return _told(event, server)
    except (ValidationError, KeyError):
        return Logged(detail=f"event {event.id}, {event.kind}, cannot be read")


def _told(event: JobEvent, server: str) -> Event | None:
    match event.kind:
        case EventKind.PROGRESS:
            return Progressed.model_validate(event.data)
        case EventKind.ANSWERED:
            answer = Revision.model_validate(event.data)
            return Answered(answer=answer, path=manifest_address(server, event.job_id, answer))
    told = _words(event)
    return Logged(detail=told) if told else None


def _words(event: JobEvent) -> str:
    match event.kind:
        case EventKind.LOG:
            return str(event.data["detail"])
        case EventKind.STARTED:
            attempt = f", attempt {event.data['attempt']}" if event.data["attempt"] != 1 else ""
            return f"started by {event.data['worker']}{attempt}"
        case EventKind.REQUEUED:
            return f"queued again: {event.data['reason']}"
        case EventKind.CANCEL_REQUESTED:
            return "cancel requested"
        case _:
            return ""
