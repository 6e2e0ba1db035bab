"""What the API says about follow-ups."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from bitbudget.app.contract.followups import FollowupRequest, FollowupResult
from bitbudget.app.contract.problems import Problem

__all__ = ["Followup", "FollowupKind", "FollowupStatus"]


class FollowupKind(StrEnum):
    """What can be asked for."""

    COMPARE_TEXT = "compare-text"
    PUBLISH = "publish"


class FollowupStatus(StrEnum):
    """How far a follow-up is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen."""
        return self in {FollowupStatus.DONE, FollowupStatus.FAILED}


class Followup(BaseModel):
    """A follow-up as it is now."""

    model_config = ConfigDict(extra="forbid")

    id: str
    job_id: str
    kind: FollowupKind
    status: FollowupStatus
    asked: FollowupRequest | None = Field(description="Null where what is stored is unreadable.")
    result: FollowupResult | None = Field(description="Present once it is done.")
    problem: Problem | None = Field(description="Why it failed.")
    created_at: datetime
