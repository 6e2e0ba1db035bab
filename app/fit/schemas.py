"""What the API says about devices and what fits on them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from bitbudget.app.contract.estimate import EffortTime
from bitbudget.app.contract.reports import InventorySource
from bitbudget.app.core.fit_report import SizedChoice
from bitbudget.app.core.memory import MemoryPlan
from bitbudget.app.core.requests import DeviceName, Number
from bitbudget.app.core.runtime import Runtime

__all__ = ["Device", "Fit", "FitRequest"]


class Device(BaseModel):
    """A chip with an amount of memory."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    title: str
    memory_bytes: int
    bandwidth_bytes_per_second: float
    working_set_bytes: int = Field(description="What a GPU may keep resident by default.")
    source: str


class FitRequest(BaseModel):
    """A model, a device, and the context to keep room for."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="A folder, org/name[@revision], or the id of a model that was here.",
    )
    device: DeviceName
    context: Annotated[int, Field(ge=1, le=2**31), Number] = 8192
    kv_bits: Literal[16, 8, 4] = 16
    runtime: Runtime = Runtime.STOCK
    allow_quantized_source: bool = Field(
        default=False,
        strict=True,
        description="Take weights that were quantized before: what they lost is not seen.",
    )


class Fit(BaseModel):
    """What fits; `best_uniform` is the largest uniform format that does."""

    model_config = ConfigDict(from_attributes=True)

    device: str
    context: int
    kv_bits: int
    runtime: Runtime
    memory: MemoryPlan
    weights_limit_bytes: int
    now: SizedChoice
    smallest: SizedChoice
    uniform: tuple[SizedChoice, ...]
    best_uniform: SizedChoice | None
    efforts: tuple[EffortTime, ...] = Field(description="How long each effort would take.")
    modules_from: InventorySource = Field(description="What told the modules of the model.")
    timed_on: str = Field(description="The machine that they would take so long on.")
