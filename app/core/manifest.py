"""The manifest: the downloadable record of an allocation.

Canonical JSON, so that equal allocations are equal bytes; nothing in it depends on the clock, the
machine or the path of the run. `manifest.schema.json` beside this file is its JSON Schema.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bitbudget.app.core.allocation import Allocation
from bitbudget.app.core.calibration_text import OwnText
from bitbudget.app.core.canonical import JsonObject, canonical_json, sha256_of
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import KEEP, Format, FormatName
from bitbudget.app.core.inventory import CacheLayer
from bitbudget.app.core.kv import (
    KvFormat,
    KvFormats,
    KvSide,
    kv_format_bytes,
    kv_options,
    rotation_seed,
)
from bitbudget.app.core.layout import CheckpointLayout, module_bytes
from bitbudget.app.core.measurement import Encoder, Measurement, Sensitivity
from bitbudget.app.core.memory import element_bytes
from bitbudget.app.core.requests import AllocationRequest, Recover
from bitbudget.app.core.sensitivity import Objective, objective_of
from bitbudget.app.core.wording import expected_words

__all__ = [
    "MAX_MANIFEST_BYTES",
    "Certificate",
    "KvChoice",
    "Manifest",
    "ManifestModel",
    "ModuleChoice",
    "WeightErrorCertificate",
    "WeightErrorChoice",
]

MAX_MANIFEST_BYTES: Final = 64 * 2**20
"""A larger document is refused unread."""


def _is_empty(text: object) -> bool:
    return text == ""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ManifestModel(_Part):
    """The weights that the manifest is for."""

    name: str
    revision: str
    digest: str = Field(description="SHA-256 over the names and digests of the weight files.")
    model_type: str
    weights: int = Field(ge=0, description="In all modules, quantized or not.")
    config: JsonObject = Field(
        default_factory=dict,
        description="Settings of config.json under the names that mlx-lm's class reads, as far as "
        "the source has others.",
    )


class ModuleChoice(_Part):
    """What was chosen for one module."""

    format: FormatName
    bytes: int = Field(ge=0, description="Exact bytes in the files, header room included.")
    t2: float = Field(ge=0)
    kl_nats: float = Field(ge=0, description="Predicted KL in nats per token of this choice.")


class Certificate(_Part):
    """How good the allocation is."""

    predicted_kl_nats_per_token: float
    predicted_kl_interval_95: tuple[float, float] | None = Field(
        None,
        description="Where the KL of the finished checkpoint on the model's own text is expected,"
        " from what measured checkpoints were off by; null where none was measured.",
    )
    bound: float = Field(description="No allocation within the budget is below this.")
    gap: float
    shadow_price_nats_per_byte: float
    status: Literal["optimal", "feasible"]
    solver: str
    stopped_by: str = ""


class WeightErrorChoice(ModuleChoice):
    """What was chosen for one module where the share of weight error was minimised."""

    model_config = ConfigDict(serialize_by_alias=True)

    kl_nats: float = Field(
        ge=0,
        alias="weight_error",
        description="Share of this choice in the weight error, which is no KL.",
    )


class WeightErrorCertificate(Certificate):
    """How good the allocation is where the share of weight error was minimised.

    In documents nothing of it is called KL or nats; `bound` is in the unit of the prediction.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    predicted_kl_nats_per_token: float = Field(
        alias="predicted_weight_error",
        description="Mean over the weights of ||W_hat - W||^2 / ||W||^2 of their module: no KL.",
    )
    predicted_kl_interval_95: tuple[float, float] | None = Field(
        None, alias="predicted_weight_error_interval_95", description="Always null."
    )
    shadow_price_nats_per_byte: float = Field(
        alias="shadow_price_per_byte", description="Weight error that one more byte takes away."
    )


class KvChoice(_Part):
    """How a layer's keys and values, or one of them, are to be stored at the stated context."""

    bits: int = Field(ge=1)
    group_size: int = Field(ge=0, description="0: the model's own type, or a rotated codebook.")
    bytes: int = Field(ge=0)
    kl_nats: float = Field(ge=0, description="Predicted KL in nats per token of this choice.")
    rotated: bool = Field(default=False, description="Codes of a rotated codebook.")
    width: int = Field(0, ge=0, description="Channels of a head, of a rotated codebook.")
    seed: int = Field(0, ge=0, description="Of the rotation's signs.")

    @property
    def format(self) -> KvFormat:
        """The format without its bytes and cost."""
        return KvFormat(self.bits, self.group_size, self.rotated)


class Manifest(_Part):
    """One format per module of one model, with exact bytes and the certificate."""

    schema_version: Literal[1] = 1
    model: ManifestModel
    measurement: str = Field(description="Key of the measurement that was allocated on.")
    origin: str = Field(
        "",
        exclude_if=_is_empty,
        description="[datasets/]org/name@commit of the repository on the Hub that the measurement"
        " was taken from; left out where it was measured here or given as a file.",
    )
    effort: Effort = Field(Effort.STANDARD, description="How much work went into it.")
    encoder: Encoder
    sensitivity: Sensitivity
    text: str = Field(
        OwnText.SELF,
        description="What sensitivity was measured on: `self`, what the model wrote from its"
        " beginning token; `chat`, what it answered to bundled prompts; `none`; or the SHA-256 of"
        " the user's text.",
    )
    rotation: str = "none"
    recover: Recover = Field(
        Recover.NONE, description="What the job trains after quantization, in the same bytes."
    )
    request: AllocationRequest
    budget_bytes: int = Field(ge=0)
    file_bytes: int = Field(ge=0)
    certificate: Certificate | WeightErrorCertificate
    modules: dict[str, ModuleChoice | WeightErrorChoice]
    kv_cache: dict[int, dict[KvSide, KvChoice]] | None = Field(
        None,
        description="By cache layer, where it was chosen with the weights: `both` alike, or `keys`"
        " and `values` apart. It is made at run time: `bitbudget.load`, or `bitbudget.make_cache`"
        " as mlx-lm's `prompt_cache`.",
    )
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_in_the_unit_of_its_sensitivity(self) -> Manifest:
        is_kl = self.objective.is_kl
        parts = (self.certificate, *self.modules.values())
        if any(isinstance(part, _WEIGHT_ERROR) is is_kl for part in parts):
            msg = f"sensitivity {self.sensitivity.value} states its {self.objective.label}"
            raise ValueError(msg)
        return self

    @property
    def objective(self) -> Objective:
        """What was minimised, with its unit."""
        return objective_of(self.sensitivity)

    @property
    def kv_formats(self) -> KvFormats:
        """The chosen KV formats; empty where the caches are none of the allocation's business."""
        chosen = self.kv_cache or {}
        return {
            layer: {side: choice.format for side, choice in sides.items()}
            for layer, sides in chosen.items()
        }

    @property
    def formats(self) -> dict[str, Format]:
        """The format of each module, by path."""
        return {path: choice.format for path, choice in self.modules.items()}

    @property
    def bits_per_weight(self) -> float:
        """Bits of the files for each weight, headers and unquantized arrays included."""
        return 8 * self.file_bytes / max(self.model.weights, 1)

    @property
    def has_own_formats(self) -> bool:
        """Whether a module has a format that `bitbudget.load` reads and stock mlx-lm does not."""
        return any(not format_.is_stock for format_ in self.formats.values())

    def to_bytes(self) -> bytes:
        """Return the canonical bytes, whose SHA-256 is the manifest's identity."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def sha256(self) -> str:
        """Hex digest of `to_bytes`."""
        return sha256_of(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "manifest") -> Manifest:
        """Read and check a manifest; InvalidRequestError names the first thing that is wrong."""
        if len(data) > MAX_MANIFEST_BYTES:
            raise InvalidRequestError(
                where=where,
                found=f"{len(data)} bytes",
                expected=f"at most {MAX_MANIFEST_BYTES}",
                remedy="check that this is a bitbudget manifest",
            )
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "document"
            raise InvalidRequestError(
                where=f"{where}: {place}",
                found=repr(first.get("input"))[:80],
                expected=expected_words(first["msg"]),
                remedy="write it with bitbudget allocate, or check it against the JSON Schema",
            ) from error

    def quantization_config(self) -> dict[str, object]:
        """Return mlx-lm's `quantization` entry of config.json: every quantized path, explicitly."""
        chosen = {path: c.format for path, c in self.modules.items() if c.format != KEEP}
        config: dict[str, object] = {"group_size": 64, "bits": 4, "mode": "affine"}
        for path, format_ in chosen.items():
            config[path] = {
                "group_size": format_.group_size,
                "bits": format_.bits,
                "mode": format_.config_mode,
            }
        return config

    @classmethod
    def build(
        cls,
        measurement: Measurement,
        layout: CheckpointLayout,
        request: AllocationRequest,
        allocation: Allocation,
    ) -> Manifest:
        """Record `allocation` of `measurement`.

        Where KL is calibrated each choice has its share of the predicted, so that they add up.
        """
        is_kl = measurement.objective.is_kl
        choice_of = ModuleChoice if is_kl else WeightErrorChoice
        cost_key = "kl_nats" if is_kl else "weight_error"
        modules = {}
        kv_costs = _kv_costs(measurement, allocation)
        cost = measurement.cost(allocation.formats) + math.fsum(kv_costs.values())
        share = measurement.calibration.share(cost)
        curves = {curve.path: curve for curve in measurement.curves}
        for module in layout.inventory.modules:
            format_ = allocation.formats[module.path]
            point = curves[module.path].point(format_)
            modules[module.path] = choice_of.model_validate(
                {
                    "format": format_,
                    "bytes": module_bytes(module, format_),
                    "t2": point.t2,
                    cost_key: point.kl_nats * share,
                }
            )
        return cls(
            model=ManifestModel(
                name=measurement.model.name,
                revision=measurement.model.revision,
                digest=measurement.model.digest,
                model_type=measurement.inventory.architecture.model_type,
                weights=measurement.inventory.weights,
                config=measurement.inventory.config,
            ),
            measurement=measurement.key,
            origin=measurement.origin,
            effort=measurement.effort,
            encoder=measurement.encoder,
            sensitivity=measurement.sensitivity,
            text=measurement.text,
            rotation=measurement.rotation,
            recover=getattr(request, "recover", Recover.NONE),
            request=AllocationRequest(
                **request.model_dump(include=set(AllocationRequest.model_fields))
            ),
            budget_bytes=allocation.budget_bytes,
            file_bytes=allocation.file_bytes,
            certificate=_certificate(allocation, measurement.objective),
            modules=modules,
            kv_cache=None
            if allocation.kv_formats is None
            else _kv_choices(measurement, request, allocation.kv_formats, kv_costs, share),
            notes=allocation.notes,
        )


_WEIGHT_ERROR: Final = (WeightErrorCertificate, WeightErrorChoice)


def _certificate(allocation: Allocation, objective: Objective) -> Certificate:
    status: Literal["optimal", "feasible"] = (
        "optimal" if allocation.status == "optimal" else "feasible"
    )
    if not objective.is_kl:
        return WeightErrorCertificate(
            predicted_weight_error=allocation.predicted_kl_nats_per_token,
            bound=allocation.bound,
            gap=allocation.gap,
            shadow_price_per_byte=allocation.shadow_price_nats_per_byte,
            status=status,
            solver=allocation.solver,
            stopped_by=allocation.stopped_by,
        )
    return Certificate(
        predicted_kl_nats_per_token=allocation.predicted_kl_nats_per_token,
        predicted_kl_interval_95=allocation.interval_95,
        bound=allocation.bound,
        gap=allocation.gap,
        shadow_price_nats_per_byte=allocation.shadow_price_nats_per_byte,
        status=status,
        solver=allocation.solver,
        stopped_by=allocation.stopped_by,
    )


def _kv_costs(measurement: Measurement, allocation: Allocation) -> dict[tuple[int, KvSide], float]:
    """Return what each chosen cache adds to the cost of the curves."""
    inventory = measurement.inventory
    curves = {curve.layer: curve for curve in measurement.kv_curves}
    caches = {cache.layer: cache for cache in inventory.architecture.cache}
    return {
        (layer, side): kv_options(inventory, curves[layer], caches[layer], side)[format_].kl_nats
        for layer, sides in (allocation.kv_formats or {}).items()
        for side, format_ in sides.items()
    }


def _kv_choices(
    measurement: Measurement,
    request: AllocationRequest,
    formats: KvFormats,
    costs: Mapping[tuple[int, KvSide], float],
    share: float,
) -> dict[int, dict[KvSide, KvChoice]]:
    inventory = measurement.inventory
    itemsize, context = element_bytes(inventory), request.context or 0
    caches = {cache.layer: cache for cache in inventory.architecture.cache}
    return {
        layer: {
            side: KvChoice(
                bits=format_.bits,
                group_size=format_.group_size,
                bytes=kv_format_bytes(caches[layer], context, format_, itemsize, side),
                kl_nats=costs[layer, side] * share,
                rotated=format_.rotated,
                **(_rotation(caches[layer], side) if format_.rotated else {}),
            )
            for side, format_ in sides.items()
        }
        for layer, sides in formats.items()
    }


def _rotation(cache: CacheLayer, side: KvSide) -> dict[str, int]:
    width = cache.value_width if side is KvSide.VALUES else cache.head_width
    return {"width": width, "seed": rotation_seed(cache.layer, side)}
