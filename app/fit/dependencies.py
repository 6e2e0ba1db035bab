"""What routes of devices and fits ask of the server."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from bitbudget.app.fit.service import FitService
from bitbudget.app.http.dependencies import provided

__all__ = ["Fits"]

Fits = Annotated[FitService, Depends(provided(FitService))]
