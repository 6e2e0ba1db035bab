"""What routes of models ask of the server."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from bitbudget.app.http.dependencies import provided
from bitbudget.app.models.importing import ImportService
from bitbudget.app.models.service import ModelService

__all__ = ["Imports", "Models"]

Imports = Annotated[ImportService, Depends(provided(ImportService))]
Models = Annotated[ModelService, Depends(provided(ModelService))]
