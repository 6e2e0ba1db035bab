"""Routes of the pages; none is part of the API."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import NotFoundError
from bitbudget.app.core.runtime import Runtime
from bitbudget.app.dashboard.dependencies import Pages, Solve
from bitbudget.app.dashboard.instant_fit import Asked as FitQuestion
from bitbudget.app.dashboard.instant_fit import fit_words
from bitbudget.app.dashboard.page_route import PageRoute
from bitbudget.app.dashboard.pages.api import api_page
from bitbudget.app.dashboard.pages.jobs import Listed
from bitbudget.app.dashboard.pages.mac import Caches
from bitbudget.app.dashboard.rendering import asset_file, asset_names, html, twin
from bitbudget.app.dashboard.service import CompareQuery, GuideQuery, WhatIfQuery, figure_named
from bitbudget.app.jobs.status import JobStatus

__all__ = ["router"]

_FOREVER: Final = {"Cache-Control": "public, max-age=31536000, immutable"}


router = APIRouter(route_class=PageRoute, include_in_schema=False)


Cursor = Annotated[str | None, Query(max_length=4096)]
Name = Annotated[str, Query(max_length=512)]
Several = Annotated[list[str] | None, Query(max_length=16)]
KvBits = Annotated[str, Query(pattern="^(16|8|4)?$")]
Context = Annotated[str, Query(pattern=r"^[0-9]{0,9}$")]


def _asked(
    *,
    measurement: Name = "",
    budget: Name = "",
    module: Name = "",
    device: Annotated[str | None, Query(max_length=512)] = None,
    context: Context = "",
    kv_bits: KvBits = "",
    runtime: Annotated[Runtime, Query()] = Runtime.STOCK,
) -> WhatIfQuery:
    tokens = int(context) if context else None
    caches = Caches(int(kv_bits), runtime) if kv_bits else Caches(runtime=runtime)
    return WhatIfQuery(measurement, budget.strip(), module, device, tokens, caches)


def _guided(
    measurement: Name = "",
    context: Context = "",
    runtime: Annotated[Runtime, Query()] = Runtime.STOCK,
) -> GuideQuery:
    return GuideQuery(measurement, int(context) if context else None, runtime)


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


def _csv(page: JsonObject, name: str) -> Response:
    return Response(figure_named(page, name).csv(), media_type="text/csv; charset=utf-8")


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Serve one of our files, or plotly from its installed package."""
    if name not in asset_names():
        raise NotFoundError(what="file", name=name)
    asset = asset_file(name)
    return FileResponse(asset.path, media_type=asset.media_type, headers=_FOREVER)


def _listed(cursor: Cursor = None, state: Name = "", model: Name = "", tag: Name = "") -> Listed:
    known = state in set(JobStatus)
    return Listed(cursor, JobStatus(state) if known else None, model.strip(), tag.strip())


Shown = Annotated[Listed, Depends(_listed)]


@router.get("/")
def jobs(pages: Pages, listed: Shown, like: Name = "") -> Response:
    """List the jobs; `like` fills the form with what another job asked for."""
    return html("jobs.html", pages.jobs(listed, pages.form_like(like) if like else None))


@router.get("/index.json")
def jobs_json(pages: Pages, listed: Shown) -> Response:
    """List the jobs as JSON."""
    return twin(pages.jobs(listed))


@router.get("/fit")
def fit(
    pages: Pages,
    *,
    model: Name = "",
    budget: Name = "",
    device: Name = "",
    context: Name = "",
    kv_bits: KvBits = "",
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


@router.get("/models")
def models(pages: Pages, cursor: Cursor = None) -> Response:
    """List the measured models."""
    return html("models.html", pages.models(cursor))


@router.get("/models.json")
def models_json(pages: Pages, cursor: Cursor = None) -> Response:
    """List the measured models as JSON."""
    return twin(pages.models(cursor))


Guided = Annotated[GuideQuery, Depends(_guided)]


@router.get("/models/{digest}/guide")
async def guide(pages: Pages, solve: Solve, digest: str, asked: Guided) -> Response:
    """Show which Mac runs a model how well."""
    return await solve(lambda: html("guide.html", pages.guide(digest, asked)))


@router.get("/models/{digest}/guide.json")
async def guide_json(pages: Pages, solve: Solve, digest: str, asked: Guided) -> Response:
    """Show which Mac runs a model how well as JSON."""
    return await solve(lambda: twin(pages.guide(digest, asked)))


@router.get("/models/{digest}/guide.csv")
async def guide_csv(pages: Pages, solve: Solve, digest: str, asked: Guided) -> Response:
    """Give the table of devices."""
    return await solve(lambda: _csv(pages.guide(digest, asked), "guide"))


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


@router.get("/docs")
def docs(request: Request) -> Response:
    """Show the HTTP interface."""
    return html("api.html", api_page(request.app.openapi()))


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
