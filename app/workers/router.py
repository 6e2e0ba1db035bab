"""HTTP routes of workers."""

from __future__ import annotations

from fastapi import APIRouter, status

from bitbudget.app.auth.dependencies import JobsReader, WorkerKey
from bitbudget.app.contract.leases import WorkerRegistration, WorkerWelcome
from bitbudget.app.http.pages import Page
from bitbudget.app.http.parameters import Cursor, Limit
from bitbudget.app.http.problems import problems
from bitbudget.app.workers.dependencies import Workers
from bitbudget.app.workers.schemas import Worker

__all__ = ["router"]

router = APIRouter(prefix="/v1/workers", tags=["workers"])


@router.post(
    "",
    operation_id="registerWorker",
    status_code=status.HTTP_201_CREATED,
    responses=problems(400, 401, 403, 413, 422, 429, 503),
)
def register_worker(
    registration: WorkerRegistration, workers: Workers, principal: WorkerKey
) -> WorkerWelcome:
    """Introduce a worker; its token is told this once."""
    return workers.register(registration, principal)


@router.get("", operation_id="listWorkers", responses=problems(401, 403, 404, 422, 429, 503))
def list_workers(
    workers: Workers, _: JobsReader, limit: Limit = 50, cursor: Cursor = None
) -> Page[Worker]:
    """List workers, newest first."""
    return workers.page(cursor, limit)
