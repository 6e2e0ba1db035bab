"""A synthetic measurement of the size of a large mixture of experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.encoders import Encoder
from bitbudget.app.core.formats import KEEP, STOCK_FORMATS, Format
from bitbudget.app.core.inventory import (
    Architecture,
    CacheKind,
    CacheLayer,
    Inventory,
    Module,
    ModuleKind,
)
from bitbudget.app.core.measurement import KEEP_POINT, Curve, CurvePoint, Measurement, ModelIdentity
from bitbudget.app.core.sensitivity import Sensitivity

__all__ = ["large_measurement"]

_LAYERS: Final = 64
_EXPERTS: Final = 128
_WIDTH: Final = 2048
_INNER: Final = 768


def _layer(number: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    attention = {"q": 4096, "k": 512, "v": 512}
    for name, rows in attention.items():
        yield f"self_attn.{name}_proj", (rows, _WIDTH)
    yield "self_attn.o_proj", (_WIDTH, 4096)
    if number == 0:
        owners: dict[str, tuple[int, ...]] = {"mlp": ()}
    else:
        yield "mlp.gate", (_EXPERTS, _WIDTH)
        owners = {"mlp.switch_mlp": (_EXPERTS,), "mlp.shared_expert": ()}
    for owner, stack in owners.items():
        for name in ("gate", "up"):
            yield f"{owner}.{name}_proj", (*stack, _INNER, _WIDTH)
        yield f"{owner}.down_proj", (*stack, _WIDTH, _INNER)


def _modules() -> Iterator[Module]:
    path = "model.embed_tokens"
    yield Module(path, ModuleKind.EMBEDDING, (151_936, _WIDTH), Dtype.BF16, decision_group=path)
    for number in range(_LAYERS):
        for name, shape in _layer(number):
            path = f"model.layers.{number}.{name}"
            is_stack = len(shape) > 2
            yield Module(
                path,
                ModuleKind.SWITCH_LINEAR if is_stack else ModuleKind.LINEAR,
                shape,
                Dtype.BF16,
                decision_group=path,
                layer=number,
                experts_per_token=8 if is_stack else 0,
            )
    path = "lm_head"
    yield Module(path, ModuleKind.LINEAR, (151_936, _WIDTH), Dtype.BF16, decision_group=path)


def _point(format_: Format, alpha: float) -> CurvePoint:
    if format_ == KEEP:
        return KEEP_POINT
    t2 = 1.5 * 4.0**-format_.bits * (1 + format_.group_size / 256)
    return CurvePoint(format_, t2=t2, kl_nats=alpha * t2)


def large_measurement() -> Measurement:
    """Return curves of 64 layers and 128 experts; the first layer is dense."""
    modules = tuple(_modules())
    caches = tuple(
        CacheLayer(number, CacheKind.FULL, elements_per_token=1024, head_width=128)
        for number in range(_LAYERS)
    )
    architecture = Architecture(
        model_type="qwen3_moe",
        hidden_size=_WIDTH,
        intermediate_size=_INNER,
        vocabulary_size=151_936,
        layers=_LAYERS,
        attention_heads=32,
        max_context=32_768,
        cache=caches,
        experts=_EXPERTS,
        experts_per_token=8,
    )
    curves = []
    for index, module in enumerate(modules):
        alpha = (1 + index % 7) / (1 + (module.layer or 0) / 8)
        points = tuple(_point(format_, alpha) for format_ in module.legal_formats(STOCK_FORMATS))
        curves.append(Curve(module.path, alpha, points))
    return Measurement(
        model=ModelIdentity("org/large-moe", "main", "1" * 64),
        inventory=Inventory(architecture, modules, ()),
        encoder=Encoder.YAQA,
        sensitivity=Sensitivity.FISHER,
        curves=tuple(curves),
        text="self",
        tokens=4096,
    )
