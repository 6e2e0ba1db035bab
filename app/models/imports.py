"""The HTTP route that takes measurements which others made."""

from __future__ import annotations

from typing import Annotated, Final

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response, status

from bitbudget.app.auth.dependencies import MeasurementsWriter
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.http.problems import Responses, problems
from bitbudget.app.measurements.schemas import Measurement
from bitbudget.app.models.dependencies import Imports

__all__ = ["router"]

router = APIRouter(prefix="/v1/measurements", tags=["measurements"])

_BODY: Final[JsonObject] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string"}}},
    }
}
Origin = Annotated[
    str,
    Query(
        max_length=256,
        description="Where on the Hub it was taken from, [datasets/]org/name@commit; shown as what"
        " the importer said.",
    ),
]
_MADE: Final[Responses] = {
    201: {"headers": {"Location": {"description": "Where it is.", "schema": {"type": "string"}}}}
}


@router.post(
    "",
    operation_id="importMeasurement",
    status_code=status.HTTP_201_CREATED,
    openapi_extra=_BODY,
    responses={**_MADE, **problems(400, 401, 403, 409, 413, 422, 429, 503)},
)
async def import_measurement(
    *,
    request: Request,
    response: Response,
    imports: Imports,
    principal: MeasurementsWriter,
    origin: Origin = "",
) -> Measurement:
    """Store a measurement that was exported elsewhere; it is checked, and marked as imported."""
    data = await request.body()
    found = await to_thread.run_sync(imports.take, data, principal.owner, origin)
    response.headers["Location"] = f"/v1/measurements/{found.id}"
    return found
