"""One tensor: its rate-distortion curve, its features, and why it got its bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitbudget.app.core.formats import Format
from bitbudget.app.core.inventory import Module
from bitbudget.app.core.layout import module_bytes
from bitbudget.app.core.measurement import Curve, CurvePoint
from bitbudget.app.core.sensitivity import KL, Objective
from bitbudget.app.dashboard.figures.figure import Figure, Series
from bitbudget.app.dashboard.formatting import kl

__all__ = ["Tensor", "tensor"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is known of one module and the choice made for it."""

    path: str
    shape: tuple[int, ...]
    format: str
    alpha_nats: float
    sqnr_db: float
    reason: str
    features: tuple[tuple[str, float], ...]
    figure: Figure


def tensor(
    module: Module,
    curve: Curve,
    chosen: Format,
    *,
    shadow_price_nats_per_byte: float,
    sqnr_floor_db: float,
    objective: Objective = KL,
) -> Tensor:
    """Describe `module` stored as `chosen`, at the going price of a byte.

    Formats under `sqnr_floor_db` were not offered.
    """
    point = curve.point(chosen)
    offered = [p for p in curve.points if p.sqnr_db >= sqnr_floor_db]
    return Tensor(
        path=module.path,
        shape=module.shape,
        format=str(chosen),
        alpha_nats=curve.alpha_nats,
        sqnr_db=point.sqnr_db,
        reason=_reason(module, offered, point, shadow_price_nats_per_byte, objective),
        features=tuple(sorted(curve.features.items())),
        figure=_figure(module, curve, chosen, objective),
    )


def _figure(module: Module, curve: Curve, chosen: Format, objective: Objective) -> Figure:
    points = sorted(curve.points, key=lambda p: module_bytes(module, p.format))
    rows = tuple(
        (
            str(p.format),
            module_bytes(module, p.format),
            round(p.format.bits_per_weight(module.dtype), 3),
            p.t2,
            p.sqnr_db if math.isfinite(p.sqnr_db) else None,
            p.kl_nats,
        )
        for p in points
    )
    drawn = [p for p in points if math.isfinite(p.sqnr_db)]
    picked = [p for p in drawn if p.format == chosen]
    return Figure(
        name="tensor",
        title=f"Rate-distortion of {module.path}",
        summary=(
            f"{len(drawn)} formats from {drawn[0].sqnr_db:.1f} dB to "
            f"{max(p.sqnr_db for p in drawn):.1f} dB; chosen: {chosen}."
            if drawn
            else f"No format but keep is legal; chosen: {chosen}."
        ),
        columns=(
            *("format", "bytes", "bits per weight", "t2", "SQNR dB"),
            f"{objective.label} {objective.short_unit}",
        ),
        rows=rows,
        series=(
            _series("formats", drawn, module, "main"),
            _series("chosen", picked, module, "ours"),
        ),
        x_title="bits per weight",
        y_title="SQNR (dB)",
    )


def _series(name: str, points: list[CurvePoint], module: Module, role: str) -> Series:
    return Series(
        name=name,
        x=[p.format.bits_per_weight(module.dtype) for p in points],
        y=[p.sqnr_db for p in points],
        role=role,
        labels=[str(p.format) for p in points],
    )


def _reason(
    module: Module,
    offered: list[CurvePoint],
    chosen: CurvePoint,
    price: float,
    objective: Objective,
) -> str:
    size = module_bytes(module, chosen.format)
    sized = [(p, module_bytes(module, p.format) - size) for p in offered]
    smaller = [p for p, nbytes in sized if nbytes < 0 and p.kl_nats > chosen.kl_nats]
    larger = [p for p, nbytes in sized if nbytes > 0 and p.kl_nats < chosen.kl_nats]
    parts = [f"One more byte anywhere buys {kl(price)} {objective.unit}."] if price else []
    if smaller:
        down = min(smaller, key=lambda p: _slope(module, chosen, p))
        parts.append(
            _step("Going down", module, chosen, down, price=price, unit=objective.short_unit)
        )
    if larger:
        up = max(larger, key=lambda p: _slope(module, chosen, p))
        parts.append(_step("Going up", module, chosen, up, price=price, unit=objective.short_unit))
    return " ".join(parts) or "There is no other format to choose."


def _slope(module: Module, chosen: CurvePoint, other: CurvePoint) -> float:
    nbytes = module_bytes(module, other.format) - module_bytes(module, chosen.format)
    return abs((other.kl_nats - chosen.kl_nats) / nbytes)


def _step(
    words: str,
    module: Module,
    chosen: CurvePoint,
    other: CurvePoint,
    *,
    price: float,
    unit: str,
) -> str:
    nbytes = module_bytes(module, other.format) - module_bytes(module, chosen.format)
    nats = other.kl_nats - chosen.kl_nats
    change = f"{'+' if nats > 0 else ''}{kl(nats)}"
    text = f"{words} to {other.format} would change {nbytes:+,} bytes and {change} {unit}"
    if not price:
        return f"{text}."
    ratio = _slope(module, chosen, other) / price
    return f"{text}: {ratio:.2g} times the going price."
