"""Routes for those who run the server: alive, ready, metrics."""

from __future__ import annotations

import logging
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Response
from jinja2 import TemplateError
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from bitbudget.app.auth.dependencies import JobsReader
from bitbudget.app.dashboard.rendering import check_installation
from bitbudget.app.http.dependencies import provided
from bitbudget.app.http.errors import UnavailableError
from bitbudget.app.http.problems import Responses, problems
from bitbudget.app.server.services import Services
from bitbudget.app.storage.migrate import is_current

__all__ = ["router"]

router = APIRouter(tags=["operations"])
Server = Annotated[Services, Depends(provided(Services))]
_log: Final = logging.getLogger(__name__)
_METRICS: Final[Responses] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


class Health(BaseModel):
    """All is well."""

    status: Literal["ok"] = "ok"


@router.get("/livez", operation_id="isAlive")
async def is_alive() -> Health:
    """Answer while the process can answer at all."""
    return Health()


@router.get("/readyz", operation_id="isReady", responses=problems(503))
def is_ready(services: Server) -> Health:
    """Answer while the database has the right schema, pages render and artifacts can be written."""
    _check(services)
    return Health()


def _check(services: Services) -> None:
    if services.pulse.is_stopped:
        raise UnavailableError(what="server, which is shutting down,")
    try:
        current = is_current(services.database)
    except SQLAlchemyError as error:
        raise UnavailableError(what="database") from error
    if not current:
        raise UnavailableError(what="database schema of this version")
    try:
        check_installation()
    except (OSError, ImportError, TemplateError) as error:
        _log.exception("the dashboard cannot be rendered")
        raise UnavailableError(what="dashboard, whose files are not all installed,") from error
    try:
        services.store.check()
    except OSError as error:
        _log.warning("artifact store: %s", error)
        raise UnavailableError(what="artifact store") from error


@router.get(
    "/metrics",
    operation_id="getMetrics",
    response_class=Response,
    responses={**_METRICS, **problems(401, 403, 429, 503)},
)
def get_metrics(services: Server, _: JobsReader) -> Response:
    """Return Prometheus metrics."""
    return Response(services.metrics.text(), media_type="text/plain; version=0.0.4")
