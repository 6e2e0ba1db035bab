"""What a user asks for: a budget with its side conditions, and a whole job."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic.config import JsonDict

from bitbudget.app.core.devices import DEVICES, device
from bitbudget.app.core.effort import EFFORTS, Effort, encoder_at, with_effort
from bitbudget.app.core.encoders import Encoder, usable_encoder
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import FormatName
from bitbudget.app.core.recover import Recover
from bitbudget.app.core.runtime import Runtime, offered_formats
from bitbudget.app.core.sensitivity import Sensitivity
from bitbudget.app.core.sizes import MAX_SIZE, parse_size
from bitbudget.app.core.sqnr import DEFAULT_SQNR_FLOOR_DB

__all__ = [
    "AllocationRequest",
    "Deliver",
    "DeviceName",
    "JobRequest",
    "Number",
    "Recover",
    "Rotation",
]


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


def _number(value: object) -> object:
    """Refuse what JSON Schema does not call a number: strings of digits, true and false."""
    if isinstance(value, (bool, str, bytes)):
        msg = "not a number"
        raise ValueError(msg)  # noqa: TRY004 - the error that pydantic reports
    return value


Number: Final = BeforeValidator(_number)
"""Stands last, so that the bounds before it stay in the JSON Schema."""

_MOST_ENTRIES: Final = 1024
"""Globs and formats that a request may name."""
Count = Annotated[int, Field(ge=0, le=MAX_SIZE), Number]
Glob = Annotated[str, Field(max_length=512, pattern=r"^[^\x00-\x1f\x7f]*$")]
Size = Annotated[
    Annotated[str, Field(max_length=64)] | Count,
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "string",
                    "maxLength": 64,
                    "pattern": r"^[0-9]+(\.[0-9]+)? ?[KMGT]i?B$|^[0-9]+ ?B?$",
                },
                {"type": "integer", "minimum": 0, "maximum": MAX_SIZE},
            ]
        }
    ),
]
"""What `parse_size` reads; the JSON Schema is the tidy part of it."""


def _known_device(name: str) -> str:
    try:
        return device(name).name
    except InvalidRequestError as error:
        raise ValueError(str(error)) from error


DeviceName = Annotated[
    str,
    AfterValidator(_known_device),
    WithJsonSchema({"type": "string", "enum": sorted(DEVICES)}),
]
"""The name of a device that is known."""

_STATED_BUDGET: Final[JsonDict] = {
    "anyOf": [
        {"required": ["budget"], "properties": {"budget": {"type": ["string", "integer"]}}},
        {"required": ["device"], "properties": {"device": {"type": "string"}}},
        {"required": ["min_safe"], "properties": {"min_safe": {"const": True}}},
    ]
}


class AllocationRequest(BaseModel):
    """A budget and what else the allocation must respect.

    The budget is stated as bytes of the finished files (`budget`), as a device with a context
    (`device`, `context`), or both, and then both hold.

        AllocationRequest(budget="5.5GiB", floors={"*.gate": 8})
        AllocationRequest(device="m4-pro-24gb", context=8192)
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, json_schema_extra=_STATED_BUDGET
    )

    budget: Size | None = Field(None, description="Bytes, or a size such as 5.5GiB.")
    device: DeviceName | None = Field(
        None, description="A device of GET /v1/devices, such as m4-pro-24gb."
    )
    context: Annotated[int, Field(ge=1, le=2**31), Number] | None = Field(
        None, description="Tokens of context to keep room for."
    )
    kv_bits: Literal[16, 8, 4] = Field(16, description="Bits of the KV cache: 16, 8 or 4.")
    joint_kv: bool = Field(
        default=False, strict=True, description="Choose the KV cache's bits per layer, too."
    )
    runtime: Runtime = Field(
        Runtime.STOCK,
        description="What runs the result: mlx-lm as it is, with bitbudget.load, or Mirai's uzu.",
    )
    min_tokens_per_second: Annotated[float, Field(gt=0, le=1e12), Number] | None = None
    formats: tuple[FormatName, ...] | None = Field(
        None,
        max_length=_MOST_ENTRIES,
        description="Candidates; default: all that the runtime loads.",
    )
    sqnr_floor_db: float = Field(
        DEFAULT_SQNR_FLOOR_DB,
        ge=0,
        le=1e6,
        strict=True,
        description="Formats below it are not offered.",
    )
    pins: dict[Glob, FormatName] = Field(
        default_factory=dict, max_length=_MOST_ENTRIES, description="Glob of paths: format."
    )
    floors: dict[Glob, Count] = Field(
        default_factory=dict, max_length=_MOST_ENTRIES, description="Glob of paths: least bits."
    )
    max_low_bit_per_block: Count | None = None
    min_safe: bool = Field(
        default=False, strict=True, description="The smallest size we stand behind."
    )
    time_limit_seconds: Annotated[float, Field(gt=0, le=600), Number] = 10.0

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

    @model_validator(mode="after")
    def _names_formats_of_its_runtime(self) -> AllocationRequest:
        known = frozenset(offered_formats(self.runtime))
        for format_ in (*(self.formats or ()), *self.pins.values()):
            if format_ not in known:
                msg = f"{format_} needs another loader than runtime {self.runtime.value} has"
                raise ValueError(msg)
        return self

    @property
    def budget_bytes(self) -> int | None:
        """The stated file bytes, None when the budget is a device or `min_safe` alone."""
        return None if self.budget is None else parse_size(self.budget)


class JobRequest(AllocationRequest):
    """A model, a budget and how the work is done.

    What is not stated of encoder and recovery follows from the effort.

        JobRequest(model="org/name", budget="5.5GiB", effort="quick").encoder  # careful
    """

    model: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="A folder or org/name[@revision].",
    )
    effort: Effort = Field(
        Effort.STANDARD, description="How much work goes into the answer; see docs/effort.md."
    )
    max_minutes: Annotated[float, Field(gt=0, le=525_600), Number] | None = Field(
        None,
        description="The most that the work may take on the worker's machine, as it is estimated:"
        " the best effort that fits is taken, up to the one that is stated.",
    )
    preview: bool | None = Field(
        None,
        strict=True,
        description="Give a first answer at quick effort, which the wanted effort then refines;"
        " default: where the wanted one takes more than a minute and five times as long.",
    )
    encoder: Encoder = Field(
        Encoder.YAQA,
        description="Default: the effort's. gptq and yaqa need statistics: without fisher"
        " sensitivity careful is used.",
    )
    sensitivity: Sensitivity = Sensitivity.FISHER
    rotation: Rotation = Rotation.NONE
    deliver: Deliver = Deliver.MANIFEST
    recover: Recover = Field(
        Recover.NONE,
        description="Training after quantization, never worse than without; default: the effort's.",
    )
    recover_seconds: Annotated[float, Field(gt=0, le=86_400), Number] = Field(
        300.0, description="The most that recovery may take."
    )
    relinearize: bool | None = Field(
        None,
        strict=True,
        description="Measure together what errors cost at this budget, and solve again; default:"
        " below 3.5 bits per weight, where the model is small enough.",
    )
    text: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="A text file of the worker's for sensitivity.",
    )
    name: str | None = Field(
        None,
        min_length=1,
        max_length=256,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="What manifest and card call the model.",
    )
    allow_quantized_source: bool = Field(
        default=False,
        strict=True,
        description="Take weights that were quantized before: what they lost is not seen.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**32), Number] = 0
    measurement: str | None = Field(
        None,
        min_length=64,
        max_length=64,
        pattern=r"^[0-9a-f]{64}$",
        description="Id of a measurement that the server has, such as an imported one: used instead"
        " of measuring if it is of the model's weights and was made as asked.",
    )

    @model_validator(mode="before")
    @classmethod
    def _follows_its_effort(cls, given: object) -> object:
        return with_effort(given, ("encoder", "recover"))

    @property
    def may_preview(self) -> bool:
        """Whether a first answer at quick effort may come before the one that is asked for."""
        return (
            self.preview is not False
            and self.measurement is None
            and self.effort is not Effort.QUICK
            and self.sensitivity is Sensitivity.FISHER
        )

    def at_effort(self, effort: Effort) -> JobRequest:
        """Return the same without a limit of time; encoder and recovery follow as by default."""
        encoder = encoder_at(effort, self.encoder, before=self.effort, sensitivity=self.sensitivity)
        change: dict[str, object] = {"effort": effort, "max_minutes": None, "encoder": encoder}
        if self.recover is EFFORTS[self.effort].recover:
            change["recover"] = EFFORTS[effort].recover
        return self.model_copy(update=change)

    @model_validator(mode="after")
    def _measures_or_is_given(self) -> JobRequest:
        if self.measurement is not None and self.max_minutes is not None:
            msg = "max_minutes chooses how to measure, and `measurement` says that it is measured"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _rotates_for_its_runtime(self) -> JobRequest:
        if self.runtime is Runtime.UZU and self.rotation is Rotation.FUSED:
            msg = "fused rotations run in bitbudget.load, which runtime uzu is without"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _has_what_its_encoder_needs(self) -> JobRequest:
        object.__setattr__(self, "encoder", usable_encoder(self.encoder, self.sensitivity))
        return self
