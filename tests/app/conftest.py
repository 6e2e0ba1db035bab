"""Inventories and measurements small enough to read."""

from __future__ import annotations

import pytest

from app.core.dtypes import Dtype
from app.core.formats import ALL_FORMATS, KEEP, Format
from app.core.inventory import (
    Architecture,
    CacheKind,
    CacheLayer,
    Inventory,
    Module,
    ModuleKind,
    Passthrough,
)
from app.core.measurement import (
    KEEP_POINT,
    Curve,
    CurvePoint,
    Encoder,
    Measurement,
    ModelIdentity,
    Sensitivity,
)


def _module(path: str, shape: tuple[int, ...], kind: ModuleKind = ModuleKind.LINEAR) -> Module:
    layer = int(path.split(".")[2]) if ".layers." in path else None
    return Module(path, kind, shape, Dtype.BF16, decision_group=path, layer=layer)


@pytest.fixture
def inventory() -> Inventory:
    """Two layers, one stack of experts, one width that no group divides."""
    return Inventory(
        architecture=Architecture(
            model_type="llama",
            hidden_size=128,
            intermediate_size=172,
            vocabulary_size=512,
            layers=2,
            attention_heads=4,
            max_context=256,
            cache=(
                CacheLayer(0, CacheKind.FULL, elements_per_token=128, head_width=32),
                CacheLayer(1, CacheKind.FULL, elements_per_token=128, head_width=32),
            ),
        ),
        modules=(
            _module("model.embed_tokens", (512, 128), ModuleKind.EMBEDDING),
            _module("model.layers.0.self_attn.q_proj", (128, 128)),
            _module("model.layers.0.mlp.down_proj", (128, 172)),
            _module(
                "model.layers.1.mlp.switch_mlp.up_proj", (8, 64, 128), ModuleKind.SWITCH_LINEAR
            ),
        ),
        passthrough=(
            Passthrough("model.norm.weight", Dtype.BF16, (128,)),
            Passthrough("model.layers.0.odd", Dtype.BF16, (3,)),
        ),
    )


def _point(format_: Format, alpha: float) -> CurvePoint:
    if format_ == KEEP:
        return KEEP_POINT
    t2 = 1.5 * 4.0**-format_.bits * (1 + format_.group_size / 256)
    return CurvePoint(format_, t2=t2, kl_nats=alpha * t2)


@pytest.fixture
def measurement(inventory: Inventory) -> Measurement:
    """Gaussian-like curves with a different sensitivity per module."""
    curves = []
    for index, module in enumerate(inventory.modules):
        alpha = 0.5 + index
        points = tuple(_point(f, alpha) for f in module.legal_formats(ALL_FORMATS))
        curves.append(Curve(module.path, alpha, points, features={"rms": 0.02}))
    return Measurement(
        model=ModelIdentity("org/model", "main", "0" * 64),
        inventory=inventory,
        encoder=Encoder.MINMAX,
        sensitivity=Sensitivity.FISHER,
        curves=tuple(curves),
        text="self",
        tokens=4096,
    )
