"""What routes of models ask of the server."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from bitbudget.app.http.dependencies import provided
from bitbudget.app.models.service import ModelService

__all__ = ["Models"]

Models = Annotated[ModelService, Depends(provided(ModelService))]
