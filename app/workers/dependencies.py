"""What routes of workers ask of the server."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from bitbudget.app.http.dependencies import provided
from bitbudget.app.workers.service import WorkerService

__all__ = ["Workers"]

Workers = Annotated[WorkerService, Depends(provided(WorkerService))]
