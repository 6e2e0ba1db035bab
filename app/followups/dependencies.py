"""What routes of follow-ups ask of the server."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from bitbudget.app.followups.service import FollowupService
from bitbudget.app.http.dependencies import provided

__all__ = ["Followups"]

Followups = Annotated[FollowupService, Depends(provided(FollowupService))]
