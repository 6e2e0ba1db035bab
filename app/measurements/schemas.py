"""What the API says about a measurement, its tensors and the allocations made from it."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, Field

from bitbudget.app.core.calibration import Calibration
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.formats import FormatName
from bitbudget.app.core.guide import GuideRow
from bitbudget.app.core.inventory import Architecture, ModuleKind
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Encoder, ModelIdentity, Sensitivity, Verification

__all__ = [
    "AllocationAnswer",
    "Frontier",
    "FrontierPoint",
    "Guide",
    "MarkedPoint",
    "Measurement",
    "MeasurementSummary",
    "Order",
    "Tensor",
    "TensorPoint",
    "TensorSort",
]


class Guide(BaseModel):
    """One measured model on every device, at a context."""

    measurement_id: str
    context: int
    rows: list[GuideRow]


class MeasurementSummary(BaseModel):
    """How a measurement was made; `id` is its key."""

    id: str
    effort: Effort
    encoder: Encoder
    sensitivity: Sensitivity
    rotation: str
    text: str = Field(description="`self`, `chat`, `none` or the SHA-256 of the user's text.")
    tokens: int
    verification: Verification | None
    calibration: Calibration = Field(
        description="KL measured of whole checkpoints, by what their curves add up to."
    )
    warnings: tuple[str, ...]
    origin: str = Field(
        description="[datasets/]org/name@commit of the repository on the Hub that a worker took it"
        " from, or that its importer named; empty where it was measured or imported as a file."
    )
    imported: bool = Field(description="Whether it was imported: no worker of this server made it.")
    created_at: datetime


class Measurement(MeasurementSummary):
    """A measurement without its curves."""

    model: ModelIdentity
    architecture: Architecture
    modules: int
    weights: int
    source_bytes: int = Field(description="File bytes with every module kept as it is.")
    minimum_bytes: int = Field(
        description="File bytes of the smallest allocation above the default SQNR floor."
    )


class TensorPoint(BaseModel):
    """One format of one tensor; `sqnr_db` is null where the copy is exact."""

    format: FormatName
    bytes: int
    bits_per_weight: float
    t2: float
    sqnr_db: float | None
    kl_nats: float


class Tensor(BaseModel):
    """One module with its rate-distortion curve."""

    position: int
    path: str
    role: str
    layer: int | None
    kind: ModuleKind
    shape: tuple[int, ...]
    dtype: Dtype
    weights: int
    decision_group: str
    alpha_nats: float
    digest: str
    features: dict[str, float]
    points: list[TensorPoint]


class TensorSort(StrEnum):
    """What tensors can be sorted by; `position` is the order of the checkpoint."""

    POSITION = "position"
    PATH = "path"
    WEIGHTS = "weights"
    ALPHA_NATS = "alpha_nats"


class Order(StrEnum):
    """Rising or falling."""

    ASCENDING = "asc"
    DESCENDING = "desc"


class AllocationAnswer(BaseModel):
    """An allocation of stored curves: its manifest, and the digest of the manifest's bytes."""

    manifest: Manifest
    manifest_sha256: str
    slack_bytes: int


class FrontierPoint(BaseModel):
    """An allocation that no other beats on both numbers."""

    file_bytes: int
    kl_nats_per_token: float


class MarkedPoint(FrontierPoint):
    """What a recipe that others use gives, such as `affine4g64`."""

    name: str


class Frontier(BaseModel):
    """Every budget at once; between two neighbours the line bounds the KL from below."""

    measurement_id: str
    smallest_bytes: int
    breakpoints: list[FrontierPoint]
    uniform: list[MarkedPoint]
    recipes: list[MarkedPoint]
