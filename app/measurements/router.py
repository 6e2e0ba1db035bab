"""HTTP routes of measurements."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from bitbudget.app.auth.dependencies import JobsReader
from bitbudget.app.core.canonical import sha256_of
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.runtime import Runtime
from bitbudget.app.core.sqnr import DEFAULT_SQNR_FLOOR_DB
from bitbudget.app.http.pages import Page
from bitbudget.app.http.parameters import Cursor, Limit, storable
from bitbudget.app.http.problems import Responses, problems
from bitbudget.app.http.tagged import KnownTags, tagged
from bitbudget.app.measurements.dependencies import Measurements, Solving
from bitbudget.app.measurements.schemas import (
    AllocationAnswer,
    Frontier,
    Guide,
    Measurement,
    Order,
    Tensor,
    TensorSort,
)
from bitbudget.app.measurements.service import TensorQuery

__all__ = ["router"]

router = APIRouter(prefix="/v1/measurements", tags=["measurements"])

_EXPORT: Final[Responses] = {
    200: {"content": {"application/json": {"schema": {"type": "object"}}}},
    304: {"description": "The measurement is the one you have."},
}
_CSV: Final[Responses] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}
_MAX_LAYER: Final = 2**31 - 1
Layer = Annotated[int, Field(ge=0, le=_MAX_LAYER)] | SkipJsonSchema[None]
Role = Annotated[str, Field(max_length=128)] | SkipJsonSchema[None]


@router.get(
    "/{measurement_id}",
    operation_id="getMeasurement",
    responses=problems(401, 403, 404, 422, 429, 503),
)
def get_measurement(measurement_id: str, measurements: Measurements, _: JobsReader) -> Measurement:
    """Return how a model was measured, and its sizes."""
    return measurements.get(measurement_id)


@router.get(
    "/{measurement_id}/export",
    operation_id="exportMeasurement",
    response_class=Response,
    responses={**_EXPORT, **problems(401, 403, 404, 422, 429, 503)},
)
def export_measurement(
    measurement_id: str,
    measurements: Measurements,
    _: JobsReader,
    if_none_match: KnownTags = None,
) -> Response:
    """Download a measurement to pass on: canonical bytes, whose SHA-256 is the ETag."""
    data = measurements.export(measurement_id)
    return tagged(data, f'"{sha256_of(data)}"', if_none_match)


@router.get(
    "/{measurement_id}/tensors",
    operation_id="listTensors",
    responses=problems(401, 403, 404, 422, 429, 503),
)
def list_tensors(
    *,
    measurement_id: str,
    measurements: Measurements,
    _: JobsReader,
    sort: TensorSort = TensorSort.POSITION,
    order: Order = Order.ASCENDING,
    layer: Annotated[Layer, Query()] = None,
    role: Annotated[Role, Query()] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[Tensor]:
    """List tensors with their rate-distortion curves."""
    query = TensorQuery(sort, order, layer, storable(role))
    return measurements.tensors(measurement_id, query, cursor, limit)


@router.get(
    "/{measurement_id}/tensors.csv",
    operation_id="downloadTensors",
    response_class=Response,
    responses={**_CSV, **problems(401, 403, 404, 422, 429, 503)},
)
def download_tensors(measurement_id: str, measurements: Measurements, _: JobsReader) -> Response:
    """Download every point of every tensor as CSV."""
    lines = measurements.tensors_csv(measurement_id)
    return StreamingResponse(lines, media_type="text/csv")


@router.get(
    "/{measurement_id}/frontier",
    operation_id="getFrontier",
    responses=problems(401, 403, 404, 422, 429, 503),
)
async def get_frontier(
    *,
    measurement_id: str,
    http: Request,
    measurements: Measurements,
    solving: Solving,
    principal: JobsReader,
    sqnr_floor_db: Annotated[float, Query(ge=0, le=200)] = DEFAULT_SQNR_FLOOR_DB,
    points: Annotated[int, Query(ge=2, le=20_000, description="Thinned to this many.")] = 2_000,
) -> Frontier:
    """Return every budget at once: exact bytes against predicted KL."""
    work = partial(measurements.frontier, measurement_id, sqnr_floor_db, points)
    return await solving.run(http, principal.owner, work)


@router.get(
    "/{measurement_id}/guide",
    operation_id="getGuide",
    responses=problems(400, 401, 403, 404, 422, 429, 503),
)
async def get_guide(
    *,
    measurement_id: str,
    http: Request,
    measurements: Measurements,
    solving: Solving,
    principal: JobsReader,
    context: Annotated[int, Query(ge=1, le=2**31, description="Tokens to keep room for.")] = 8192,
    joint_kv: Annotated[bool, Query(description="Choose KV caches, too.")] = False,
    runtime: Runtime = Runtime.STOCK,
) -> Guide:
    """Return the best checkpoint for every device of the table."""
    work = partial(measurements.guide, measurement_id, context, joint_kv=joint_kv, runtime=runtime)
    return await solving.run(http, principal.owner, work)


@router.post(
    "/{measurement_id}/allocations",
    operation_id="allocate",
    responses=problems(400, 401, 403, 404, 413, 422, 429, 503),
)
async def allocate(
    *,
    measurement_id: str,
    request: AllocationRequest,
    http: Request,
    measurements: Measurements,
    solving: Solving,
    principal: JobsReader,
) -> AllocationAnswer:
    """Solve another budget on stored curves: no worker, nothing stored."""
    work = partial(measurements.allocate, measurement_id, request)
    return await solving.run(http, principal.owner, work)
