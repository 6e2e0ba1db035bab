"""How the KV cache of a layer is stored, and exactly how many bytes that takes.

Stock mlx-lm stores a layer's keys and values alike: in the model's own type, or in affine groups
of 8 or 4 bits (`QuantizedKVCache`). bitbudget's own cache (`bitbudget.kv.cache`) stores keys and
values each in a format of its own, and has rotated codebook formats of 4, 3 and 2 bits as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from bitbudget.app.core.devices import Device
from bitbudget.app.core.inventory import CacheKind, CacheLayer, Inventory
from bitbudget.app.core.measurement import KvCurve, KvPoint
from bitbudget.app.core.memory import (
    KV_BITS,
    MemoryPlan,
    cache_tokens,
    element_bytes,
    plan_memory,
    prefill_bytes,
)
from bitbudget.app.core.runtime import Runtime

__all__ = [
    "KV_GROUP_SIZES",
    "KV_WIDTHS",
    "KvFormat",
    "KvFormats",
    "KvSide",
    "kv_format_bytes",
    "kv_options",
    "kv_sides",
    "legal_kv_formats",
    "plan_with_caches",
    "quantized_formats",
    "rotated_formats",
    "rotation_seed",
    "running_bytes",
    "untaken_widths",
]

KV_WIDTHS: Final = (8, 4)
"""Bits that a cache of affine groups may have."""

KV_GROUP_SIZES: Final = (32, 64, 128)
"""Group sizes that MLX quantizes by; one is legal where it divides the head's width."""

_ROTATED_BITS: Final = (4, 3, 2)
_ROTATED_MULTIPLE: Final = 32
"""Widths that rotated codes can be packed for are multiples of this."""
_SCALE_BYTES: Final = 2
"""Of the float16 scale that every rotated vector has."""


class KvSide(StrEnum):
    """What of a layer's cache one decision is about."""

    BOTH = "both"
    KEYS = "keys"
    VALUES = "values"


@dataclass(frozen=True, slots=True, order=True)
class KvFormat:
    """Bits and group size of keys or values; neither group nor rotation is the model's own type.

    KvFormat(8, 64)              # affine codes in groups of 64
    KvFormat(3, rotated=True)    # a rotated codebook of 3 bits, one scale per vector
    KvFormat(16)                 # the model's own type
    """

    bits: int
    group_size: int = 0
    rotated: bool = False

    @property
    def is_own_type(self) -> bool:
        """Whether nothing is quantized."""
        return not self.group_size and not self.rotated

    def __str__(self) -> str:
        """Return `8g64`, `t3`, or `16` for the model's own type."""
        if self.rotated:
            return f"t{self.bits}"
        return f"{self.bits}g{self.group_size}" if self.group_size else str(self.bits)


KvFormats = Mapping[int, Mapping[KvSide, KvFormat]]
"""What was decided by cache layer: one format of both sides, or one of each."""


def rotation_seed(layer: int, side: KvSide) -> int:
    """Return the seed of the signs by which a layer's keys or values are rotated."""
    return 2 * layer + (side is KvSide.VALUES)


def quantized_formats(cache: CacheLayer) -> tuple[KvFormat, ...]:
    """Return the formats that mlx-lm's QuantizedKVCache has for this layer.

    None but for plain caches: sliding windows, latent attention and recurrent states keep the
    model's own type.
    """
    if cache.kind is not CacheKind.FULL or not cache.head_width:
        return ()
    widths = (cache.head_width, cache.value_width or cache.head_width)
    return tuple(
        KvFormat(bits, group_size)
        for bits in KV_WIDTHS
        for group_size in KV_GROUP_SIZES
        if not any(width % group_size for width in widths)
    )


def rotated_formats(width: int) -> tuple[KvFormat, ...]:
    """Return the rotated codebook formats for keys or values of `width` channels a head."""
    if not width or width % _ROTATED_MULTIPLE:
        return ()
    return tuple(KvFormat(bits, rotated=True) for bits in _ROTATED_BITS)


def kv_sides(cache: CacheLayer, *, apart: bool) -> tuple[KvSide, ...]:
    """Return the decisions about a plain cache: keys and values `apart`, or both alike."""
    if apart and cache.value_width:
        return (KvSide.KEYS, KvSide.VALUES)
    return (KvSide.BOTH,)


def legal_kv_formats(cache: CacheLayer, side: KvSide) -> tuple[KvFormat, ...]:
    """Return the formats, other than the model's own type, that one decision may take."""
    affine = quantized_formats(cache)
    if side is KvSide.BOTH or not affine:
        return affine
    width = cache.head_width if side is KvSide.KEYS else cache.value_width
    return (*affine, *rotated_formats(width))


def untaken_widths(caches: Iterable[CacheLayer]) -> str:
    """Return a note naming the heads of plain caches that no format takes; empty without any."""
    widths = {
        width
        for cache in caches
        if cache.kind is CacheKind.FULL and not quantized_formats(cache)
        for width in (cache.head_width, cache.value_width or cache.head_width)
    }
    if not widths:
        return ""
    named = " and ".join(map(str, sorted(widths)))
    return (
        f"heads of {named} channels take no KV format, since {min(KV_GROUP_SIZES)} does not divide"
        " them: their caches keep the model's own type"
    )


def kv_format_bytes(
    cache: CacheLayer,
    context: int,
    format_: KvFormat,
    itemsize: int,
    side: KvSide = KvSide.BOTH,
) -> int:
    """Return the bytes of one layer's cache, or of its keys or values, at `context` tokens.

    `itemsize` is that of the model's own type, which affine scales and biases have, too.
    """
    tokens = cache_tokens(cache, context)
    elements = tokens * _elements(cache, side)
    constant = cache.constant_bytes if side is not KvSide.VALUES else 0
    if format_.is_own_type:
        known = tokens * cache.bytes_per_token if side is KvSide.BOTH else 0
        return constant + (known or elements * itemsize)
    if format_.rotated:
        width = cache.value_width if side is KvSide.VALUES else cache.head_width
        return constant + elements * format_.bits // 8 + elements // width * _SCALE_BYTES
    return constant + elements * format_.bits // 8 + elements // format_.group_size * 2 * itemsize


def _elements(cache: CacheLayer, side: KvSide) -> int:
    """Return the elements of a token."""
    if side is KvSide.BOTH:
        return cache.elements_per_token
    width = cache.head_width if side is KvSide.KEYS else cache.value_width
    return cache.elements_per_token * width // (cache.head_width + cache.value_width)


def kv_options(
    inventory: Inventory, curve: KvCurve | None, cache: CacheLayer, side: KvSide = KvSide.BOTH
) -> Mapping[KvFormat, KvPoint]:
    """Return the formats a decision may have: the own type, and every legal one measured."""
    own = KvFormat(8 * element_bytes(inventory))
    options = {own: KvPoint(own.bits, 0.0, group_size=0)}
    measured = () if curve is None else _points(curve, side)
    legal = set(legal_kv_formats(cache, side))
    for point in measured:
        format_ = KvFormat(point.bits, point.group_size, point.rotated)
        if format_ in legal and format_.bits < own.bits:
            options[format_] = point
    return options


def _points(curve: KvCurve, side: KvSide) -> tuple[KvPoint, ...]:
    match side:
        case KvSide.KEYS:
            return curve.keys
        case KvSide.VALUES:
            return curve.values
        case KvSide.BOTH:
            return curve.points


def plan_with_caches(
    inventory: Inventory, device: Device, context: int, formats: KvFormats, runtime: Runtime
) -> MemoryPlan:
    """Split a device's memory with the caches in `formats`, all others in the model's own type."""
    plan = plan_memory(inventory, device, context, max(KV_BITS))
    caches, prefill = running_bytes(inventory, context, formats, runtime)
    return replace(plan, kv_cache_bytes=caches, prefill_bytes=prefill)


def running_bytes(
    inventory: Inventory, context: int, formats: KvFormats, runtime: Runtime
) -> tuple[int, int]:
    """Return the bytes of all KV caches at `context` tokens, and of one prefill step.

    Caches that `formats` does not name are in the model's own type.
    """
    itemsize = element_bytes(inventory)
    own = {KvSide.BOTH: KvFormat(8 * itemsize)}
    used = [format_ for sides in formats.values() for format_ in sides.values()]
    narrowest = min((format_.bits for format_ in used), default=8 * itemsize)
    caches = sum(
        kv_format_bytes(cache, context, format_, itemsize, side)
        for cache in inventory.architecture.cache
        for side, format_ in formats.get(cache.layer, own).items()
    )
    prefill = prefill_bytes(inventory.architecture, context, narrowest, itemsize, runtime)
    return caches, prefill
