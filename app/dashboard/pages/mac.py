"""What a device holds of a measured model at a few lengths of context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bitbudget.app.core.devices import Device
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.memory import KV_BITS, plan_memory
from bitbudget.app.core.runtime import Runtime
from bitbudget.app.core.sizes import format_size
from bitbudget.app.dashboard import formatting as words
from bitbudget.app.dashboard.figures.frontier import Point

__all__ = ["OWN_TYPE", "Caches", "MacCard", "mac_cards"]

_CONTEXTS: Final = (8192, 32_768, 131_072)


@dataclass(frozen=True, slots=True)
class Caches:
    """How keys and values are kept, and whose attention reads them."""

    kv_bits: int = max(KV_BITS)
    runtime: Runtime = Runtime.STOCK


OWN_TYPE: Final = Caches()
"""Keys and values in the model's own type, read by mlx-lm's attention."""


@dataclass(frozen=True, slots=True)
class MacCard:
    """The best allocation within a device's memory at one context; `budget` 0 where none fits."""

    context: int
    room: str
    budget: int
    size: str = ""
    bits: str = ""
    cost: str = ""
    unit: str = ""


def mac_cards(
    measurement: Measurement, line: Sequence[Point], device: Device, caches: Caches
) -> list[MacCard]:
    """Return a card per context that the model has, from the frontier, smallest point first."""
    most = measurement.inventory.architecture.max_context or max(_CONTEXTS)
    contexts = dict.fromkeys(min(context, most) for context in _CONTEXTS)
    return [_card(measurement, line, device, context, caches) for context in contexts]


def _card(
    measurement: Measurement,
    line: Sequence[Point],
    device: Device,
    context: int,
    caches: Caches,
) -> MacCard:
    plan = plan_memory(measurement.inventory, device, context, caches.kv_bits, caches.runtime)
    limit = max(plan.weights_limit_bytes, 0)
    fitting = [point for point in line if point.file_bytes <= limit]
    if not fitting:
        return MacCard(context, format_size(limit), 0)
    best = fitting[-1]
    bits = 8 * best.file_bytes / max(measurement.inventory.weights, 1)
    return MacCard(
        context=context,
        room=format_size(limit),
        budget=min(limit, line[-1].file_bytes),
        size=format_size(best.file_bytes),
        bits=f"{bits:.2f}",
        cost=words.kl(best.kl_nats),
        unit=measurement.objective.unit,
    )
