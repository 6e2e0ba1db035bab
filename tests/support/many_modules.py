"""Measurements of many modules, for searches that take long."""

from __future__ import annotations

from typing import Final

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import AFFINE_FORMATS
from bitbudget.app.core.inventory import Architecture, Inventory, Module, ModuleKind
from bitbudget.app.core.measurement import (
    KEEP_POINT,
    Curve,
    CurvePoint,
    Encoder,
    Measurement,
    ModelIdentity,
    Sensitivity,
)

__all__ = ["IN_CP_SAT", "many_modules"]

IN_CP_SAT: Final = {"budget": 3_000_101, "max_low_bit_per_block": 1, "time_limit_seconds": 600}
"""What CP-SAT searches for a minute on 300 modules; beside it a thread watches for the end."""


def many_modules(count: int) -> Measurement:
    """Return a measurement of `count` modules, on which side conditions take a solver long."""
    names = [f"model.layers.{n // 7}.m{n % 7}" for n in range(count)]
    made = tuple(
        Module(name, ModuleKind.LINEAR, (128, 128), Dtype.BF16, name, layer=n // 7)
        for n, name in enumerate(names)
    )
    curves = tuple(Curve(name, 1.0, _points(1 + n % 31)) for n, name in enumerate(names))
    return Measurement(
        model=ModelIdentity("org/model", "main", "0" * 64),
        inventory=Inventory(Architecture("llama", 128, 128, 512, 1, 4, 256), made, ()),
        encoder=Encoder.YAQA,
        sensitivity=Sensitivity.FISHER,
        curves=curves,
        text="self",
        tokens=4096,
    )


def _points(alpha: float) -> tuple[CurvePoint, ...]:
    errors = {f: 1.5 * 4.0**-f.bits * (1 + f.group_size / 256) for f in AFFINE_FORMATS}
    found = (CurvePoint(f, t2=t2, kl_nats=alpha * t2) for f, t2 in errors.items())
    return (*found, KEEP_POINT)
