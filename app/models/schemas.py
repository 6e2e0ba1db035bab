"""What the API says about models."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from bitbudget.app.measurements.schemas import MeasurementSummary

__all__ = ["Model"]


class Model(BaseModel):
    """A set of weights the server knows; `id` is the digest over its files."""

    id: str
    name: str
    revision: str
    model_type: str
    weights: int
    names: list[str] = Field(description="Requested names that resolved to these weights last.")
    measurements: list[MeasurementSummary]
    unreadable: list[str] = Field(
        description="Ids of measurements that are stored but cannot be read by this version of the"
        " server."
    )
    created_at: datetime
