"""What routes of measurements ask of the server."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from bitbudget.app.http.dependencies import provided
from bitbudget.app.measurements.service import MeasurementService

__all__ = ["Measurements"]

Measurements = Annotated[MeasurementService, Depends(provided(MeasurementService))]
