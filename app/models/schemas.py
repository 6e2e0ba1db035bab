"""What the API says about models and their measurements."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from bitbudget.app.core.calibration import Calibration
from bitbudget.app.core.measurement import Encoder, Sensitivity, Verification

__all__ = ["MeasurementSummary", "Model"]


class MeasurementSummary(BaseModel):
    """How a measurement was made; `id` is its key."""

    id: str
    encoder: Encoder
    sensitivity: Sensitivity
    rotation: str
    text: str = Field(description="`self`, `none` or the SHA-256 of the user's text.")
    tokens: int
    verification: Verification | None
    calibration: Calibration = Field(
        description="KL measured of whole checkpoints, by what their curves add up to."
    )
    warnings: tuple[str, ...]
    created_at: datetime


class Model(BaseModel):
    """A set of weights the server knows; `id` is the digest over its files."""

    id: str
    name: str
    revision: str
    model_type: str
    weights: int
    names: list[str] = Field(description="Requested names that resolved to these weights last.")
    measurements: list[MeasurementSummary]
    created_at: datetime
