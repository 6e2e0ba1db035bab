"""What was measured of a model: all that an allocation needs, so that a second budget is free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from pydantic import Field, FiniteFloat, TypeAdapter

from bitbudget.app.core.calibration import UNCALIBRATED, Calibration
from bitbudget.app.core.canonical import JsonObject, canonical_json, sha256_of
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.encoders import Encoder
from bitbudget.app.core.formats import KEEP, Format, FormatName
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.sensitivity import Objective, Sensitivity, objective_of
from bitbudget.app.core.sqnr import sqnr_db

__all__ = [
    "KEEP_POINT",
    "METRIC_VERSION",
    "Curve",
    "CurvePoint",
    "Encoder",
    "KvCurve",
    "KvPoint",
    "Measurement",
    "ModelIdentity",
    "Sensitivity",
    "Verification",
    "measurement_key",
]

METRIC_VERSION: Final = 9
"""Raised whenever a change makes stored numbers incomparable with new ones."""


NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A finite number from 0 on, checked where a document is read."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One format of one module.

    `t2` is ||W_hat - W||^2 / ||W||^2 of the deployed encoder with stored scales (exact affine
    value, product in float32). `kl_nats` is the predicted KL in nats per token of this choice
    alone: from the Kronecker Fisher cost of the encoder's own error where statistics allow, else
    alpha t2.
    `t2_relative_error` is the sampling error of t2, 0 when it is exact.
    """

    format: FormatName
    t2: NotNegative
    kl_nats: NotNegative
    t2_relative_error: NotNegative = 0.0

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio."""
        return sqnr_db(self.t2)


@dataclass(frozen=True, slots=True)
class Curve:
    """The rate-distortion curve of a module, `keep` included with t2 = 0.

    `alpha_nats` is the KL in nats per token that one unit of t2 costs on this module. `digest` is
    that of the source tensors' bytes (BLAKE3). `features` are numbers for people and for models of
    sensitivity: excess kurtosis, max over rms, outlier fraction, effective rank, ...
    """

    path: str
    alpha_nats: NotNegative
    points: tuple[CurvePoint, ...]
    digest: str = ""
    features: Mapping[str, FiniteFloat] = field(default_factory=dict)

    def point(self, format_: Format) -> CurvePoint:
        """Return the point measured in `format_`; KeyError when it was not."""
        for point in self.points:
            if point.format == format_:
                return point
        raise KeyError(str(format_))


@dataclass(frozen=True, slots=True)
class KvPoint:
    """Predicted KL in nats per token of one layer's KV cache, or of its keys or values.

    `group_size` 0 is the model's own type, or with `rotated` a rotated codebook. `interval_95`
    bounds the mean over the text's sequences.
    """

    bits: Annotated[int, Field(ge=1, le=64)]
    kl_nats: NotNegative
    group_size: Annotated[int, Field(ge=0, le=1024)] = 64
    interval_95: tuple[NotNegative, NotNegative] | None = None
    rotated: bool = False


@dataclass(frozen=True, slots=True)
class KvCurve:
    """The sensitivity of one full-attention layer's KV cache, where it was measured.

    `points` are of keys and values in one format, `keys` and `values` of one side alone. A layer
    whose cache mlx-lm cannot quantize has the point of the model's own type alone.
    """

    layer: int
    points: tuple[KvPoint, ...]
    keys: tuple[KvPoint, ...] = ()
    values: tuple[KvPoint, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which weights: the name a user gave, the resolved revision, and a digest over all files."""

    name: str
    revision: str
    digest: str


@dataclass(frozen=True, slots=True)
class Verification:
    """Predicted against measured KL (nats per token) on random mixed allocations."""

    predicted: tuple[FiniteFloat, ...]
    measured: tuple[FiniteFloat, ...]
    bits_per_weight: tuple[FiniteFloat, ...]
    r_squared: FiniteFloat
    spearman: FiniteFloat
    slope: FiniteFloat


@dataclass(frozen=True, slots=True)
class Measurement:
    """Inventory, curves and sensitivity of one model with one encoder.

    `rotation` is `none`, `folded` or `fused`; `rotation_kl_nats` is the KL in nats per token of the
    rotated model before it is quantized. `text` says which tokens sensitivity used: how the model
    wrote them (`OwnText`), `none` or the SHA-256 of the user's file; `tokens` how many.
    `calibration` turns what curves add up to into the KL to expect. `effort` is how much work went
    into all of it. `origin` is `[datasets/]org/name@commit` of the repository on the Hub that this
    copy was taken from; empty where it was measured here or given as a file.
    """

    model: ModelIdentity
    inventory: Inventory
    encoder: Encoder
    sensitivity: Sensitivity
    curves: tuple[Curve, ...]
    text: str = "none"
    tokens: int = 0
    rotation: str = "none"
    rotation_kl_nats: NotNegative = 0.0
    metric_version: int = METRIC_VERSION
    verification: Verification | None = None
    calibration: Calibration = UNCALIBRATED
    warnings: tuple[str, ...] = ()
    kv_curves: tuple[KvCurve, ...] = ()
    effort: Effort = Effort.STANDARD
    origin: str = ""

    @property
    def objective(self) -> Objective:
        """What its costs are, with the unit: KL, or a share of weight error."""
        return objective_of(self.sensitivity)

    @property
    def key(self) -> str:
        """The identity of this measurement, known before it is made."""
        return measurement_key(
            self.model.digest,
            self.encoder,
            self.sensitivity,
            self.text,
            self.rotation,
            effort=self.effort,
            has_own_formats=self.has_own_formats,
        )

    @property
    def has_own_formats(self) -> bool:
        """Whether formats that need `bitbudget.load` were measured, too."""
        return any(not point.format.is_stock for curve in self.curves for point in curve.points)

    def curve(self, path: str) -> Curve:
        """Return the curve of the module at `path`; KeyError when there is none."""
        for curve in self.curves:
            if curve.path == path:
                return curve
        raise KeyError(path)

    def cost(self, formats: Mapping[str, Format]) -> float:
        """Return what the curves of an allocation add up to, in nats per token."""
        return math.fsum(c.point(formats[c.path]).kl_nats for c in self.curves)

    def predicted_kl(self, formats: Mapping[str, Format]) -> float:
        """Return the KL in nats per token that an allocation is expected to have."""
        return self.calibration.kl(self.cost(formats))

    def to_json(self) -> bytes:
        """Return canonical JSON, the stored and uploaded form."""
        return canonical_json(_ADAPTER.dump_python(self, mode="json"))

    @classmethod
    def from_json(cls, data: bytes) -> Measurement:
        """Read `to_json`; pydantic.ValidationError names what is wrong."""
        return _ADAPTER.validate_json(data)


_ADAPTER: Final = TypeAdapter(Measurement)


def measurement_key(
    model_digest: str,
    encoder: Encoder,
    sensitivity: Sensitivity,
    text: str = "self",
    rotation: str = "none",
    *,
    effort: Effort = Effort.STANDARD,
    has_own_formats: bool = False,
) -> str:
    """Return the SHA-256 that identifies a measurement of these weights made in this way.

    `has_own_formats` says that formats which need `bitbudget.load` are measured, too.
    """
    parts: JsonObject = {
        "model": model_digest,
        "encoder": encoder.value,
        "sensitivity": sensitivity.value,
        "effort": effort.value,
        "text": text,
        "rotation": rotation,
        "metric_version": METRIC_VERSION,
    }
    if has_own_formats:
        parts["own_formats"] = True
    return sha256_of(canonical_json(parts))


KEEP_POINT: Final = CurvePoint(KEEP, t2=0.0, kl_nats=0.0)
"""The last point of every curve: the source weights themselves."""
