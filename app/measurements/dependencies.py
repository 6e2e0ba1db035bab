"""What routes of measurements ask of the server."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from bitbudget.app.http.dependencies import provided
from bitbudget.app.measurements.pool import SolverPool
from bitbudget.app.measurements.service import MeasurementService

__all__ = ["Measurements", "Solving"]

Solving = Annotated[SolverPool, Depends(provided(SolverPool))]
Measurements = Annotated[MeasurementService, Depends(provided(MeasurementService))]
