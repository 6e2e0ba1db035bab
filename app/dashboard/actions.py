"""Routes of the forms: each changes something and leads to the page that shows it."""

from __future__ import annotations

from typing import Final

from anyio import to_thread
from fastapi import APIRouter, Request, Response, status
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from bitbudget.app.auth.dependencies import TOKEN_COOKIE, Accesses, JobsWriter
from bitbudget.app.core.devices import device as known_device
from bitbudget.app.core.errors import BitbudgetError
from bitbudget.app.core.requests import Deliver
from bitbudget.app.core.sizes import parse_size
from bitbudget.app.core.wording import expected_words
from bitbudget.app.dashboard.dependencies import DEVICE_COOKIE, Pages, Solve
from bitbudget.app.dashboard.forms import Form, followup_of, job_fields, labels_of
from bitbudget.app.dashboard.page_route import PageRoute, keep_token, own_address, sign_in_page
from bitbudget.app.dashboard.pages.jobs import Listed
from bitbudget.app.dashboard.rendering import html
from bitbudget.app.http.errors import UnauthorizedError
from bitbudget.app.jobs.labels import JobLabels, JobSubmission
from bitbudget.app.jobs.schemas import Job

__all__ = ["router"]

_YEAR_SECONDS: Final = 365 * 86_400

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.post("/submit")
async def submit(pages: Pages, solve: Solve, principal: JobsWriter, form: Form) -> Response:
    """Take the form; what is wrong with it is shown beside it."""
    try:
        asked = JobSubmission.model_validate(job_fields(form))
        job = await solve(
            lambda: pages.sources.jobs.submit(asked.request, principal, None, asked.labels)
        )
    except (BitbudgetError, ValidationError) as error:
        said = str(error) if isinstance(error, BitbudgetError) else _first(error)
        page = await to_thread.run_sync(lambda: pages.jobs(Listed(), form, said))
        return html("jobs.html", page, 422)
    return RedirectResponse(f"/jobs/{job.id}", status.HTTP_303_SEE_OTHER)


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if not place:
        return first["msg"].removeprefix("Value error, ")
    return f"{place}: expected {expected_words(first['msg'])}"


@router.post("/jobs/{job_id}/cancel")
def cancel(pages: Pages, principal: JobsWriter, job_id: str) -> Response:
    """Ask for a job to be stopped."""
    pages.sources.jobs.cancel(job_id, principal)
    return RedirectResponse(f"/jobs/{job_id}", status.HTTP_303_SEE_OTHER)


@router.post("/jobs/{job_id}/again")
async def again(
    pages: Pages, solve: Solve, principal: JobsWriter, form: Form, job_id: str
) -> Response:
    """Submit what a job asked for once more, with its checkpoint where the form says so."""

    def submitted() -> Job:
        before = pages.sources.jobs.get(job_id)
        request, labels = before.request, JobLabels(tags=before.tags)
        if form.get("deliver") == Deliver.CHECKPOINT:
            request = request.model_copy(update={"deliver": Deliver.CHECKPOINT})
        return pages.sources.jobs.submit(request, principal, None, labels)

    job = await solve(submitted)
    return RedirectResponse(f"/jobs/{job.id}", status.HTTP_303_SEE_OTHER)


@router.post("/jobs/{job_id}/labels")
def label(pages: Pages, principal: JobsWriter, form: Form, job_id: str) -> Response:
    """Change the tags and the note of a job."""
    pages.sources.jobs.label(job_id, labels_of(form), principal)
    return RedirectResponse(f"/jobs/{job_id}", status.HTTP_303_SEE_OTHER)


@router.post("/jobs/{job_id}/followups")
def follow_up(pages: Pages, principal: JobsWriter, form: Form, job_id: str) -> Response:
    """Ask the worker that holds the checkpoint to try or to publish it."""
    pages.sources.followups.ask(job_id, followup_of(form), principal)
    return RedirectResponse(f"/jobs/{job_id}#followups", status.HTTP_303_SEE_OTHER)


@router.post("/models/{digest}/checkpoint")
async def model_checkpoint(
    pages: Pages, solve: Solve, principal: JobsWriter, form: Form, digest: str
) -> Response:
    """Submit the job that makes the checkpoint of a budget."""
    budget = parse_size(form.get("budget", ""))

    def submitted() -> Job:
        request = pages.job_for(digest, form.get("measurement", ""), budget)
        return pages.sources.jobs.submit(request, principal, None)

    job = await solve(submitted)
    return RedirectResponse(f"/jobs/{job.id}", status.HTTP_303_SEE_OTHER)


@router.post("/sign-in")
def sign_in(request: Request, access: Accesses, form: Form) -> Response:
    """Keep a key in a cookie."""
    key, to = form.get("key", "").strip(), own_address(form.get("to", "/"))
    try:
        access.identify(key)
    except UnauthorizedError as error:
        return sign_in_page(request, str(error), to)
    answer = RedirectResponse(to, status.HTTP_303_SEE_OTHER)
    keep_token(request, answer, key)
    return answer


@router.post("/sign-out")
def sign_out(form: Form) -> Response:  # noqa: ARG001 - read for its origin
    """Forget the key."""
    answer = RedirectResponse("/", status.HTTP_303_SEE_OTHER)
    answer.delete_cookie(TOKEN_COOKIE, httponly=True, samesite="strict")
    return answer


@router.post("/my-mac")
def my_mac(form: Form) -> Response:
    """Keep the device that pages answer for in this browser; an empty one forgets it."""
    name = form.get("device", "")
    answer = RedirectResponse(own_address(form.get("to", "/")), status.HTTP_303_SEE_OTHER)
    if not name:
        answer.delete_cookie(DEVICE_COOKIE, samesite="lax")
        return answer
    chosen = known_device(name).name
    answer.set_cookie(DEVICE_COOKIE, chosen, max_age=_YEAR_SECONDS, httponly=True, samesite="lax")
    return answer
