"""What a user asks for: a budget with its side conditions, and a whole job."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.core.formats import FormatName
from app.core.measurement import Encoder, Sensitivity
from app.core.sizes import parse_size

__all__ = ["AllocationRequest", "Deliver", "JobRequest", "Rotation"]


class Rotation(StrEnum):
    """Which random Hadamard transforms are applied before quantization."""

    NONE = "none"
    FOLDED = "folded"
    FUSED = "fused"
    AUTO = "auto"


class Deliver(StrEnum):
    """How far a job goes: a manifest, or also the checkpoint with its evaluation and benchmark."""

    MANIFEST = "manifest"
    CHECKPOINT = "checkpoint"


class AllocationRequest(BaseModel):
    """A budget and what else the allocation must respect.

    The budget is stated as bytes of the finished files (`budget`), as a device with a context
    (`device`, `context`), or both, and then both hold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    budget: str | int | None = Field(None, description="Bytes, or a size such as 5.5GiB.")
    device: str | None = Field(
        None, description="A device of GET /v1/devices, such as m4-pro-24gb."
    )
    context: int | None = Field(None, ge=1, description="Tokens of context to keep room for.")
    kv_bits: int = Field(16, description="Bits of the KV cache: 16, 8 or 4.")
    joint_kv: bool = Field(default=False, description="Choose the KV cache's bits per layer, too.")
    min_tokens_per_second: float | None = Field(None, gt=0)
    formats: tuple[FormatName, ...] | None = Field(None, description="Candidates; default: all.")
    sqnr_floor_db: float = Field(9.0, ge=0, description="Formats below it are not offered.")
    pins: dict[str, FormatName] = Field(default_factory=dict, description="Glob of paths: format.")
    floors: dict[str, int] = Field(default_factory=dict, description="Glob of paths: least bits.")
    max_low_bit_per_block: int | None = Field(None, ge=0)
    min_safe: bool = Field(default=False, description="The smallest size we stand behind.")
    time_limit_seconds: Annotated[float, Field(gt=0, le=600)] = 10.0

    @model_validator(mode="after")
    def _states_a_budget(self) -> AllocationRequest:
        if self.budget is None and self.device is None and not self.min_safe:
            msg = (
                "state a budget: `budget` (such as 5.5GiB), `device` with `context`, or `min_safe`"
            )
            raise ValueError(msg)
        if self.budget is not None:
            parse_size(self.budget)
        return self

    @property
    def budget_bytes(self) -> int | None:
        """The stated file bytes, None when the budget is a device or `min_safe` alone."""
        return None if self.budget is None else parse_size(self.budget)


class JobRequest(AllocationRequest):
    """A model, a budget and how the work is done."""

    model: str = Field(
        min_length=1, max_length=1024, description="A folder or org/name[@revision]."
    )
    encoder: Encoder = Encoder.YAQA
    sensitivity: Sensitivity = Sensitivity.FISHER
    rotation: Rotation = Rotation.NONE
    deliver: Deliver = Deliver.MANIFEST
    text: str | None = Field(None, description="A text file of the worker's for sensitivity.")
    seed: int = Field(0, ge=0, lt=2**32)
