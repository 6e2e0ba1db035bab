"""How the KV cache of a layer is stored: the model's own type, or mlx-lm's quantized cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from bitbudget.app.core.devices import Device
from bitbudget.app.core.inventory import CacheKind, CacheLayer, Inventory
from bitbudget.app.core.measurement import KvCurve, KvPoint
from bitbudget.app.core.memory import (
    KV_BITS,
    MemoryPlan,
    cache_layer_bytes,
    element_bytes,
    plan_memory,
    prefill_bytes,
)

__all__ = [
    "KV_GROUP_SIZES",
    "KV_WIDTHS",
    "KvFormat",
    "kv_format_bytes",
    "kv_options",
    "plan_with_caches",
    "quantized_formats",
]

KV_WIDTHS: Final = (8, 4)
"""Bits that a quantized cache may have."""

KV_GROUP_SIZES: Final = (32, 64, 128)
"""Group sizes that MLX quantizes by; one is legal where it divides the head's width."""


@dataclass(frozen=True, slots=True, order=True)
class KvFormat:
    """Bits and group size of one layer's keys and values; group 0 is the model's own type."""

    bits: int
    group_size: int = 0

    def __str__(self) -> str:
        """Return `8g64`, or `16` for the model's own type."""
        return f"{self.bits}g{self.group_size}" if self.group_size else str(self.bits)


def quantized_formats(cache: CacheLayer) -> tuple[KvFormat, ...]:
    """Return the formats that mlx-lm's QuantizedKVCache has for this layer.

    None but for plain caches: sliding windows, latent attention and recurrent states keep the
    model's own type.
    """
    if cache.kind is not CacheKind.FULL or not cache.head_width:
        return ()
    return tuple(
        KvFormat(bits, group_size)
        for bits in KV_WIDTHS
        for group_size in KV_GROUP_SIZES
        if cache.head_width % group_size == 0
    )


def kv_format_bytes(cache: CacheLayer, context: int, format_: KvFormat, itemsize: int) -> int:
    """Return the bytes of one layer's cache at `context` tokens."""
    return cache_layer_bytes(
        cache, context, format_.bits, itemsize, group_size=format_.group_size or None
    )


def kv_options(
    inventory: Inventory, curve: KvCurve | None, cache: CacheLayer
) -> Mapping[KvFormat, KvPoint]:
    """Return the formats a layer may have: its own type, and every legal one that was measured."""
    own = KvFormat(8 * element_bytes(inventory))
    options = {own: KvPoint(own.bits, 0.0, group_size=0)}
    measured = () if curve is None else curve.points
    legal = set(quantized_formats(cache))
    for point in measured:
        format_ = KvFormat(point.bits, point.group_size)
        if format_ in legal and format_.bits < own.bits:
            options[format_] = point
    return options


def plan_with_caches(
    inventory: Inventory, device: Device, context: int, formats: Mapping[int, KvFormat]
) -> MemoryPlan:
    """Split a device's memory with the caches in `formats`, all others in the model's own type."""
    itemsize = element_bytes(inventory)
    own = KvFormat(8 * itemsize)
    plan = plan_memory(inventory, device, context, max(KV_BITS))
    caches = inventory.architecture.cache
    narrowest = min((format_.bits for format_ in formats.values()), default=own.bits)
    return replace(
        plan,
        kv_cache_bytes=sum(
            kv_format_bytes(cache, context, formats.get(cache.layer, own), itemsize)
            for cache in caches
        ),
        prefill_bytes=prefill_bytes(inventory.architecture, context, narrowest, itemsize),
    )
