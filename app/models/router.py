"""HTTP routes of models."""

from __future__ import annotations

from fastapi import APIRouter

from bitbudget.app.auth.dependencies import JobsReader
from bitbudget.app.http.pages import Page
from bitbudget.app.http.parameters import Cursor, Limit
from bitbudget.app.http.problems import problems
from bitbudget.app.models.dependencies import Models
from bitbudget.app.models.schemas import Model

__all__ = ["router"]

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", operation_id="listModels", responses=problems(401, 403, 404, 422, 429, 503))
def list_models(
    models: Models, _: JobsReader, limit: Limit = 50, cursor: Cursor = None
) -> Page[Model]:
    """List models, newest first, each with its measurements."""
    return models.page(cursor, limit)
