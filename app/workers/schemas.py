"""What the API says about workers."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from bitbudget.app.contract.leases import Capabilities

__all__ = ["Worker"]


class Worker(BaseModel):
    """A worker that registered, and the job it has now."""

    id: str
    name: str
    capabilities: Capabilities
    registered_at: datetime
    seen_at: datetime
    online: bool = Field(description="Whether it has called within the time that a lease lasts.")
    job_id: str | None
