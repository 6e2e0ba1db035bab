"""What the API says about workers."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from bitbudget.app.contract.leases import Capabilities

__all__ = ["Worker"]


class Worker(BaseModel):
    """A worker that registered, and the job it has now."""

    id: str
    name: str
    capabilities: Capabilities
    registered_at: datetime
    seen_at: datetime
    job_id: str | None
