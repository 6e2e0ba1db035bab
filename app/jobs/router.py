"""HTTP routes of jobs."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Request, Response, status
from fastapi.sse import EventSourceResponse
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from bitbudget.app.auth.dependencies import JobsReader, JobsWriter
from bitbudget.app.contract.reports import MOST_REVISIONS
from bitbudget.app.core.canonical import sha256_of
from bitbudget.app.http.pages import Page
from bitbudget.app.http.parameters import Cursor, Limit, storable
from bitbudget.app.http.problems import Responses, problems
from bitbudget.app.http.tagged import KnownTags, tagged
from bitbudget.app.jobs.dependencies import Jobs, Polls, Streams
from bitbudget.app.jobs.labels import JobSubmission, LabelChange, Tag
from bitbudget.app.jobs.repository import Wanted
from bitbudget.app.jobs.schemas import Job, JobReport
from bitbudget.app.jobs.status import JobStatus
from bitbudget.app.measurements.dependencies import Solving

__all__ = ["router"]

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_MAX_EVENT_ID: Final = 2**53
_LOCATION: Final = {"Location": {"description": "Where the job is.", "schema": {"type": "string"}}}
_ETAG: Final = {"ETag": {"description": "SHA-256 of the bytes.", "schema": {"type": "string"}}}


def _document(schema: str, same: str) -> Responses:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {200: {"content": content, "headers": _ETAG}, 304: {"description": same}}


_JOB: Final = _document("Job", "The job is as you know it.")
_MANIFEST: Final = _document("Manifest", "The manifest is the one you have.")
_EVENTS: Final[Responses] = {
    200: {
        "description": "Server-sent events; `id` is the event's number, `data` a JobEvent.",
        "content": {
            "text/event-stream": {
                "itemSchema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {
                        "id": {"type": "string"},
                        "event": {"type": "string"},
                        "data": {"type": "string", "contentMediaType": "application/json"},
                    },
                }
            }
        },
    },
    204: {"description": "The job has ended and there is nothing more."},
}
IdempotencyKey = Annotated[
    Annotated[str, Field(min_length=1, max_length=255)] | SkipJsonSchema[None],
    Header(description="The same key and body give the same job, however often they are sent."),
]
EventNumber = Annotated[int, Field(ge=0, le=_MAX_EVENT_ID)] | SkipJsonSchema[None]
RevisionNumber = Annotated[int, Field(ge=1, le=MOST_REVISIONS)] | SkipJsonSchema[None]
ModelName = Annotated[str, Field(max_length=1024)] | SkipJsonSchema[None]


@router.post(
    "",
    operation_id="submitJob",
    status_code=status.HTTP_202_ACCEPTED,
    responses={202: {"headers": _LOCATION}, **problems(400, 401, 403, 413, 422, 429, 503)},
)
async def submit_job(
    *,
    submission: JobSubmission,
    http: Request,
    response: Response,
    jobs: Jobs,
    solving: Solving,
    principal: JobsWriter,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Queue a job; on a model measured before, its manifest is there at once."""
    request = submission.request
    work = partial(jobs.submit, request, principal, idempotency_key, submission.labels)
    if await to_thread.run_sync(jobs.is_answerable, request):
        job = await solving.run(http, principal.owner, work)
    else:
        job = await to_thread.run_sync(work)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job


@router.get("", operation_id="listJobs", responses=problems(401, 403, 404, 422, 429, 503))
def list_jobs(
    *,
    jobs: Jobs,
    _: JobsReader,
    limit: Limit = 50,
    cursor: Cursor = None,
    status: JobStatus | SkipJsonSchema[None] = None,
    model: Annotated[ModelName, Query()] = None,
    tag: Annotated[Tag | SkipJsonSchema[None], Query()] = None,
) -> Page[Job]:
    """List jobs, newest first, of one state, of one model or with one tag."""
    return jobs.page(cursor, limit, Wanted(status, storable(model), tag))


@router.get(
    "/{job_id}",
    operation_id="getJob",
    response_class=Response,
    responses={**_JOB, **problems(401, 403, 404, 422, 429, 503)},
)
async def get_job(
    job_id: str, polls: Polls, _: JobsReader, if_none_match: KnownTags = None
) -> Response:
    """Return a job as it is now, or 304 while it is the one whose ETag was sent."""
    job = await polls.get(job_id)
    return tagged(job.body, job.etag, if_none_match)


@router.patch(
    "/{job_id}",
    operation_id="labelJob",
    responses=problems(400, 401, 403, 404, 413, 422, 429, 503),
)
def label_job(job_id: str, change: LabelChange, jobs: Jobs, principal: JobsWriter) -> Job:
    """Change the tags or the note of a job of one's own (any, for admins)."""
    return jobs.label(job_id, change, principal)


@router.post(
    "/{job_id}/cancel",
    operation_id="cancelJob",
    responses=problems(401, 403, 404, 422, 429, 503),
)
def cancel_job(job_id: str, jobs: Jobs, principal: JobsWriter) -> Job:
    """Ask for a job of one's own to be stopped (any, for admins); a finished one stays as it is."""
    return jobs.cancel(job_id, principal)


@router.get(
    "/{job_id}/events",
    operation_id="streamJobEvents",
    response_class=Response,
    responses={**_EVENTS, **problems(401, 403, 404, 422, 429, 503)},
)
async def stream_job_events(
    *,
    job_id: str,
    jobs: Jobs,
    streams: Streams,
    principal: JobsReader,
    last_event_id: Annotated[EventNumber, Header()] = None,
    after: Annotated[int, Query(ge=0, le=_MAX_EVENT_ID)] = 0,
) -> Response:
    """Follow a job: its events so far, then each as it happens, until it ends."""
    seen = after if last_event_id is None else last_event_id
    if not any(await to_thread.run_sync(jobs.events, job_id, seen)):
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    lines = streams.lines(job_id, seen, principal.owner)
    return EventSourceResponse(lines, headers=headers)


@router.get(
    "/{job_id}/manifest",
    operation_id="getManifest",
    response_class=Response,
    responses={**_MANIFEST, **problems(401, 403, 404, 409, 422, 429, 503)},
)
def get_manifest(
    job_id: str,
    jobs: Jobs,
    _: JobsReader,
    if_none_match: KnownTags = None,
    revision: Annotated[RevisionNumber, Query()] = None,
) -> Response:
    """Download the manifest: canonical bytes, whose SHA-256 is the ETag.

    By default it is that of the answer that counts now; every `revision` stays.
    """
    data = jobs.manifest(job_id, revision)
    return tagged(data, f'"{sha256_of(data)}"', if_none_match)


@router.get(
    "/{job_id}/report",
    operation_id="getReport",
    responses=problems(401, 403, 404, 422, 429, 503),
)
def get_report(job_id: str, jobs: Jobs, _: JobsReader) -> JobReport:
    """Return allocation, evaluation and benchmark of a job, as far as there are any."""
    return jobs.report(job_id)
