"""Routes of the pages; none is part of the API."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request, Response, status
from fastapi.responses import FileResponse, RedirectResponse
from fastapi.routing import APIRoute
from pydantic import ValidationError

from bitbudget.app.auth.dependencies import TOKEN_COOKIE, JobsWriter, Keys
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.devices import device as known_device
from bitbudget.app.core.errors import BitbudgetError, NotFoundError
from bitbudget.app.core.requests import Deliver, JobRequest
from bitbudget.app.core.runtime import Runtime
from bitbudget.app.core.sizes import parse_size
from bitbudget.app.core.wording import expected_words
from bitbudget.app.dashboard.dependencies import DEVICE_COOKIE, Pages, Solve
from bitbudget.app.dashboard.forms import Form, job_fields
from bitbudget.app.dashboard.instant_fit import Asked as FitQuestion
from bitbudget.app.dashboard.instant_fit import fit_words
from bitbudget.app.dashboard.pages.jobs import Listed
from bitbudget.app.dashboard.rendering import IS_SIGNED_IN, asset_file, asset_names, html, twin
from bitbudget.app.dashboard.service import CompareQuery, WhatIfQuery, figure_named
from bitbudget.app.http.errors import UnauthorizedError
from bitbudget.app.jobs.schemas import Job
from bitbudget.app.jobs.status import JobStatus

__all__ = ["missing_page", "router"]

_YEAR_SECONDS: Final = 365 * 86_400
_FOREVER: Final = {"Cache-Control": "public, max-age=31536000, immutable"}


class _PageRoute(APIRoute):
    """Shows errors as pages to those who asked for a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, with errors turned into pages."""
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            if request.url.path.endswith((".json", ".csv")):
                return await handle(request)
            IS_SIGNED_IN.set(TOKEN_COOKIE in request.cookies)
            try:
                return await handle(request)
            except UnauthorizedError as error:
                said = "" if TOKEN_COOKIE not in request.cookies else str(error)
                return _sign_in_page(said, _here(request))
            except BitbudgetError as error:
                return _problem_page(error, request.url.path)

        return handle_page


router = APIRouter(route_class=_PageRoute, include_in_schema=False)


Cursor = Annotated[str | None, Query(max_length=4096)]
Name = Annotated[str, Query(max_length=512)]
Several = Annotated[list[str] | None, Query(max_length=16)]
Context = Annotated[str, Query(pattern=r"^[0-9]{0,9}$")]


def _asked(
    measurement: Name = "",
    budget: Name = "",
    module: Name = "",
    device: Annotated[str | None, Query(max_length=512)] = None,
    context: Context = "",
) -> WhatIfQuery:
    tokens = int(context) if context else None
    return WhatIfQuery(measurement, budget.strip(), module, device, tokens)


def _compared(
    jobs: Several = None, allocations: Several = None, measurement: Name = "", budget: Name = ""
) -> CompareQuery:
    """Take the chosen answers; a measurement with a budget is one more."""
    more = [f"{measurement}@{budget.strip()}"] if measurement and budget.strip() else []
    return CompareQuery(
        tuple(dict.fromkeys(jobs or ())), tuple(dict.fromkeys([*(allocations or ()), *more]))
    )


Asked = Annotated[WhatIfQuery, Depends(_asked)]
Side = Annotated[CompareQuery, Depends(_compared)]


def _problem_page(error: BitbudgetError, path: str) -> Response:
    twin_of = "/index.json" if path == "/" else f"{path.rstrip('/')}.json"
    page = {"title": error.title(), "section": "", "twin": twin_of, "detail": str(error)}
    return html("problem.html", page, error.status)


def missing_page(path: str) -> Response:
    """Return the page for an address that leads nowhere."""
    return _problem_page(NotFoundError(what="page", name=path), path)


def _here(request: Request) -> str:
    """Return the address to come back to: the page that was asked for, else the first."""
    if request.method != "GET":
        return "/"
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def _own(address: str) -> str:
    """Return an address on this server; the first page for any other."""
    is_own = address.startswith("/") and not address.startswith(("//", "/\\"))
    return address if is_own and address.isprintable() else "/"


def _sign_in_page(error: str, to: str) -> Response:
    page = {"title": "Sign in", "section": "", "twin": "/index.json", "error": error, "to": to}
    return html("signin.html", page, status.HTTP_401_UNAUTHORIZED)


def _csv(page: JsonObject, name: str) -> Response:
    return Response(figure_named(page, name).csv(), media_type="text/csv; charset=utf-8")


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Serve one of our files, or plotly from its installed package."""
    if name not in asset_names():
        raise NotFoundError(what="file", name=name)
    asset = asset_file(name)
    return FileResponse(asset.path, media_type=asset.media_type, headers=_FOREVER)


def _listed(cursor: Cursor = None, state: Name = "", model: Name = "") -> Listed:
    known = state in set(JobStatus)
    return Listed(cursor, JobStatus(state) if known else None, model.strip())


Shown = Annotated[Listed, Depends(_listed)]


@router.get("/")
def jobs(pages: Pages, listed: Shown, like: Name = "") -> Response:
    """List the jobs; `like` fills the form with what another job asked for."""
    return html("jobs.html", pages.jobs(listed, pages.form_like(like) if like else None))


@router.get("/index.json")
def jobs_json(pages: Pages, listed: Shown) -> Response:
    """List the jobs as JSON."""
    return twin(pages.jobs(listed))


@router.post("/submit")
async def submit(pages: Pages, solve: Solve, principal: JobsWriter, form: Form) -> Response:
    """Take the form; what is wrong with it is shown beside it."""
    try:
        request = JobRequest.model_validate(job_fields(form))
        job = await solve(lambda: pages.sources.jobs.submit(request, principal, None))
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


@router.get("/fit")
def fit(
    pages: Pages,
    *,
    model: Name = "",
    budget: Name = "",
    device: Name = "",
    context: Name = "",
    kv_bits: Annotated[str, Query(pattern="^(16|8|4)?$")] = "",
    runtime: Annotated[Runtime, Query()] = Runtime.STOCK,
    formats: Name = "",
    settled: bool = False,
) -> Response:
    """Say at once whether the form's model fits; `settled` lets a new one be read."""
    asked = FitQuestion(
        model=model.strip(),
        budget=budget.strip(),
        device=device.strip(),
        context=context.strip(),
        formats=formats,
        kv_bits=int(kv_bits or 16),
        runtime=runtime,
        is_settled=settled,
    )
    return twin(fit_words(pages.sources, asked))


@router.get("/jobs/{job_id}.json")
def job_json(pages: Pages, job_id: str) -> Response:
    """Show a job as JSON."""
    return twin(pages.job(job_id))


@router.get("/jobs/{job_id}")
def job(pages: Pages, job_id: str) -> Response:
    """Show a job."""
    return html("job.html", pages.job(job_id))


@router.get("/jobs/{job_id}/{name}.csv")
def job_csv(pages: Pages, job_id: str, name: str) -> Response:
    """Give the table behind a job's figure."""
    return _csv(pages.job(job_id), name)


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
        request = pages.sources.jobs.get(job_id).request
        if form.get("deliver") == Deliver.CHECKPOINT:
            request = request.model_copy(update={"deliver": Deliver.CHECKPOINT})
        return pages.sources.jobs.submit(request, principal, None)

    job = await solve(submitted)
    return RedirectResponse(f"/jobs/{job.id}", status.HTTP_303_SEE_OTHER)


@router.get("/models")
def models(pages: Pages, cursor: Cursor = None) -> Response:
    """List the measured models."""
    return html("models.html", pages.models(cursor))


@router.get("/models.json")
def models_json(pages: Pages, cursor: Cursor = None) -> Response:
    """List the measured models as JSON."""
    return twin(pages.models(cursor))


@router.get("/models/{digest}.json")
async def model_json(pages: Pages, solve: Solve, digest: str, asked: Asked) -> Response:
    """Show a model as JSON."""
    return await solve(lambda: twin(pages.model(digest, asked)))


@router.get("/models/{digest}")
async def model(pages: Pages, solve: Solve, digest: str, asked: Asked) -> Response:
    """Show a model at one budget."""
    return await solve(lambda: html("model.html", pages.model(digest, asked)))


@router.get("/models/{digest}/manifest")
async def model_manifest(pages: Pages, solve: Solve, digest: str, asked: Asked) -> Response:
    """Download the manifest of a budget: canonical bytes."""
    data = await solve(lambda: pages.manifest_at(digest, asked))
    headers = {"Content-Disposition": 'attachment; filename="manifest.json"'}
    return Response(data, media_type="application/json", headers=headers)


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


@router.get("/models/{digest}/{name}.csv")
async def model_csv(pages: Pages, solve: Solve, digest: str, name: str, asked: Asked) -> Response:
    """Give the table behind a model's figure."""
    return await solve(lambda: _csv(pages.model(digest, asked), name))


@router.get("/compare")
async def compare(pages: Pages, solve: Solve, chosen: Side) -> Response:
    """Show answers side by side."""
    return await solve(lambda: html("compare.html", pages.compare(chosen)))


@router.get("/compare.json")
async def compare_json(pages: Pages, solve: Solve, chosen: Side) -> Response:
    """Show answers side by side as JSON."""
    return await solve(lambda: twin(pages.compare(chosen)))


@router.get("/compare/{name}.csv")
async def compare_csv(pages: Pages, solve: Solve, name: str, chosen: Side) -> Response:
    """Give the table behind a comparison's figure."""
    return await solve(lambda: _csv(pages.compare(chosen), name))


@router.get("/benchmarks")
def benchmarks(pages: Pages) -> Response:
    """Show how fast the checkpoints are."""
    return html("benchmarks.html", pages.benchmarks())


@router.get("/benchmarks.json")
def benchmarks_json(pages: Pages) -> Response:
    """Show how fast the checkpoints are as JSON."""
    return twin(pages.benchmarks())


@router.get("/benchmarks/{name}.csv")
def benchmarks_csv(pages: Pages, name: str) -> Response:
    """Give the table of benchmarks."""
    return _csv(pages.benchmarks(), name)


@router.get("/machines")
def machines(pages: Pages) -> Response:
    """Show the workers."""
    return html("machines.html", pages.machines())


@router.get("/machines.json")
def machines_json(pages: Pages) -> Response:
    """Show the workers as JSON."""
    return twin(pages.machines())


@router.get("/machines/{name}.csv")
def machines_csv(pages: Pages, name: str) -> Response:
    """Give the table of workers."""
    return _csv(pages.machines(), name)


@router.post("/sign-in")
def sign_in(request: Request, keys: Keys, form: Form) -> Response:
    """Keep a key in a cookie that scripts cannot read and other sites cannot send."""
    key, to = form.get("key", "").strip(), _own(form.get("to", "/"))
    try:
        keys.principal(key)
    except UnauthorizedError as error:
        return _sign_in_page(str(error), to)
    answer = RedirectResponse(to, status.HTTP_303_SEE_OTHER)
    secure = "https" in {request.url.scheme, request.headers.get("x-forwarded-proto")}
    answer.set_cookie(TOKEN_COOKIE, key, httponly=True, samesite="strict", secure=secure)
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
    answer = RedirectResponse(_own(form.get("to", "/")), status.HTTP_303_SEE_OTHER)
    if not name:
        answer.delete_cookie(DEVICE_COOKIE, samesite="lax")
        return answer
    chosen = known_device(name).name
    answer.set_cookie(DEVICE_COOKIE, chosen, max_age=_YEAR_SECONDS, httponly=True, samesite="lax")
    return answer
