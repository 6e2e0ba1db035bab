"""The manifest: the downloadable record of an allocation.

Canonical JSON, so that equal allocations are equal bytes; nothing in it depends on the clock, the
machine or the path of the run. `manifest.schema.json` beside this file is its JSON Schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bitbudget.app.core.allocation import Allocation
from bitbudget.app.core.canonical import canonical_json, sha256_of
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import KEEP, FormatName
from bitbudget.app.core.kv import kv_format_bytes, kv_options
from bitbudget.app.core.layout import CheckpointLayout, module_bytes
from bitbudget.app.core.measurement import Encoder, Measurement, Sensitivity
from bitbudget.app.core.memory import element_bytes
from bitbudget.app.core.requests import AllocationRequest, Recover

__all__ = [
    "MAX_MANIFEST_BYTES",
    "Certificate",
    "KvChoice",
    "Manifest",
    "ManifestModel",
    "ModuleChoice",
]

MAX_MANIFEST_BYTES: Final = 64 * 2**20
"""A larger document is refused unread."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ManifestModel(_Part):
    """The weights that the manifest is for."""

    name: str
    revision: str
    digest: str = Field(description="SHA-256 over the names and digests of the weight files.")
    model_type: str


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


class KvChoice(_Part):
    """How one layer's KV cache is to be stored at the stated context."""

    bits: int = Field(ge=1)
    group_size: int = Field(ge=0, description="0: the model's own type.")
    bytes: int = Field(ge=0)
    kl_nats: float = Field(ge=0, description="Predicted KL in nats per token of this choice.")


class Manifest(_Part):
    """One format per module of one model, with exact bytes and the certificate."""

    schema_version: Literal[1] = 1
    model: ManifestModel
    measurement: str = Field(description="Key of the measurement that was allocated on.")
    encoder: Encoder
    sensitivity: Sensitivity
    rotation: str = "none"
    recover: Recover = Field(
        Recover.NONE, description="What the job trains after quantization, in the same bytes."
    )
    request: AllocationRequest
    budget_bytes: int = Field(ge=0)
    file_bytes: int = Field(ge=0)
    certificate: Certificate
    modules: dict[str, ModuleChoice]
    kv_cache: dict[int, KvChoice] | None = Field(
        None,
        description="By cache layer, where it was chosen with the weights. It is made at run time:"
        " `bitbudget.load`, or `bitbudget.make_cache` as mlx-lm's `prompt_cache`.",
    )
    notes: tuple[str, ...] = ()

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
                expected=first["msg"],
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
                "mode": format_.mode.value,
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
        modules = {}
        kv_costs = _kv_costs(measurement, allocation)
        cost = measurement.cost(allocation.formats) + sum(kv_costs.values())
        share = measurement.calibration.share(cost)
        curves = {curve.path: curve for curve in measurement.curves}
        for module in layout.inventory.modules:
            format_ = allocation.formats[module.path]
            point = curves[module.path].point(format_)
            modules[module.path] = ModuleChoice(
                format=format_,
                bytes=module_bytes(module, format_),
                t2=point.t2,
                kl_nats=point.kl_nats * share,
            )
        return cls(
            model=ManifestModel(
                name=measurement.model.name,
                revision=measurement.model.revision,
                digest=measurement.model.digest,
                model_type=measurement.inventory.architecture.model_type,
            ),
            measurement=measurement.key,
            encoder=measurement.encoder,
            sensitivity=measurement.sensitivity,
            rotation=measurement.rotation,
            recover=getattr(request, "recover", Recover.NONE),
            request=AllocationRequest(
                **request.model_dump(include=set(AllocationRequest.model_fields))
            ),
            budget_bytes=allocation.budget_bytes,
            file_bytes=allocation.file_bytes,
            certificate=Certificate(
                predicted_kl_nats_per_token=allocation.predicted_kl_nats_per_token,
                predicted_kl_interval_95=allocation.interval_95,
                bound=allocation.bound,
                gap=allocation.gap,
                shadow_price_nats_per_byte=allocation.shadow_price_nats_per_byte,
                status="optimal" if allocation.status == "optimal" else "feasible",
                solver=allocation.solver,
                stopped_by=allocation.stopped_by,
            ),
            modules=modules,
            kv_cache=_kv_choices(measurement, request, allocation, kv_costs, share),
            notes=allocation.notes,
        )


def _kv_costs(measurement: Measurement, allocation: Allocation) -> dict[int, float]:
    """Return what each chosen cache adds to the cost of the curves."""
    inventory = measurement.inventory
    curves = {curve.layer: curve for curve in measurement.kv_curves}
    caches = {cache.layer: cache for cache in inventory.architecture.cache}
    return {
        layer: kv_options(inventory, curves[layer], caches[layer])[format_].kl_nats
        for layer, format_ in (allocation.kv_formats or {}).items()
    }


def _kv_choices(
    measurement: Measurement,
    request: AllocationRequest,
    allocation: Allocation,
    costs: Mapping[int, float],
    share: float,
) -> dict[int, KvChoice] | None:
    if allocation.kv_formats is None:
        return None
    inventory = measurement.inventory
    width = element_bytes(inventory)
    caches = {cache.layer: cache for cache in inventory.architecture.cache}
    return {
        layer: KvChoice(
            bits=format_.bits,
            group_size=format_.group_size,
            bytes=kv_format_bytes(caches[layer], request.context or 0, format_, width),
            kl_nats=costs[layer] * share,
        )
        for layer, format_ in allocation.kv_formats.items()
    }
