"""HTTP routes of models."""

from __future__ import annotations

from fastapi import APIRouter

from bitbudget.app.auth.dependencies import JobsReader
from bitbudget.app.http.pages import Cursor, Limit
from bitbudget.app.http.problems import problems
from bitbudget.app.jobs.schemas import Page
from bitbudget.app.models.schemas import Model
from bitbudget.app.server.services import ServicesDependency

__all__ = ["router"]

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", operation_id="listModels", responses=problems(401, 403, 404, 422, 429, 503))
def list_models(
    services: ServicesDependency, _: JobsReader, limit: Limit = 50, cursor: Cursor = None
) -> Page[Model]:
    """List models, newest first, each with its measurements."""
    return services.models.page(cursor, limit)
