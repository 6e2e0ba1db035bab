"""What a model takes in the memory of a Mac beside its weights, and what is left for those.

weights <= 0.9 working set - KV cache(context) - prefill peak - reserve
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from bitbudget.app.core.devices import Device
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.inventory import Architecture, CacheKind, CacheLayer, Inventory

__all__ = [
    "KV_BITS",
    "MemoryPlan",
    "cache_layer_bytes",
    "element_bytes",
    "kv_cache_bytes",
    "largest_context",
    "plan_memory",
    "prefill_bytes",
]

KV_BITS: Final = (16, 8, 4)
"""Widths of the KV cache: 16 is the model's own type, 8 and 4 are mlx-lm's quantized cache."""

_OWN_TYPE: Final = 16

_USABLE_TENTHS: Final = 9
"""mlx-lm warns when weights exceed 0.9 of the working set (mlx_lm/generate.py, wired_limit)."""

_RESERVE_BYTES: Final = 512 * 2**20
"""Metal's own buffers, compiled kernels and the Python process: an estimate."""

_CACHE_STEP: Final = 256
"""Tokens by which mlx-lm's KVCache grows (mlx_lm/models/cache.py)."""

_KV_GROUP_SIZES: Final = (64, 32)
_PREFILL_TOKENS: Final = 2048
"""Tokens per prefill step of mlx-lm's generate_step."""

_LIVE_HIDDEN: Final = 6
"""Arrays of the hidden size that live at once in a block: residual, norm, q, k, v, output."""

_LIVE_INTERMEDIATE: Final = 3
"""Arrays of the intermediate size that live at once: gate, up, and their product."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The parts of a device's memory at a context; all in bytes."""

    working_set_bytes: int
    usable_bytes: int
    kv_cache_bytes: int
    prefill_bytes: int
    reserve_bytes: int

    @property
    def weights_limit_bytes(self) -> int:
        """What weights may take; negative when the rest alone does not fit."""
        parts = self.kv_cache_bytes + self.prefill_bytes + self.reserve_bytes
        return self.usable_bytes - parts


def element_bytes(inventory: Inventory) -> int:
    """Bytes of an activation: the widest type that a forward pass gave to keys and values.

    It is the type of the residual stream, which float32 norms or biases widen and a float32 head
    does not. Where no pass was seen, the widest source type of any module.
    """
    seen = [
        -(-cache.bytes_per_token // cache.elements_per_token)
        for cache in inventory.architecture.cache
        if cache.bytes_per_token and cache.elements_per_token
    ]
    return max(seen or [module.dtype.itemsize for module in inventory.modules], default=2)


def cache_layer_bytes(
    layer: CacheLayer,
    context: int,
    kv_bits: int,
    itemsize: int = 2,
    *,
    group_size: int | None = None,
) -> int:
    """Return the bytes of one layer's cache at `context` tokens.

    mlx-lm quantizes plain caches only: sliding windows, latent attention and recurrent states keep
    the model's type whatever `kv_bits` is. Scale and bias of a group have that type, too. The group
    is mlx-lm's default of 64, or 32 where 64 does not divide the head's width, unless it is given.
    """
    tokens = -(-context // _CACHE_STEP) * _CACHE_STEP
    if layer.window:
        tokens = min(tokens, layer.window)
    elements = tokens * layer.elements_per_token
    sizes = _KV_GROUP_SIZES if group_size is None else (group_size,)
    group = next((g for g in sizes if layer.head_width % g == 0), 0)
    if kv_bits < _OWN_TYPE and layer.kind is CacheKind.FULL and group:
        packed = elements * kv_bits // 8 + elements // group * 2 * itemsize
        return layer.constant_bytes + packed
    own = tokens * layer.bytes_per_token or elements * itemsize
    return layer.constant_bytes + own


def kv_cache_bytes(architecture: Architecture, context: int, kv_bits: int, itemsize: int) -> int:
    """Return the bytes of all layers' caches at `context` tokens."""
    if kv_bits not in KV_BITS:
        raise InvalidRequestError(
            where="kv_bits",
            found=str(kv_bits),
            expected="16, 8 or 4",
            remedy="mlx-lm stores the cache in the model's type or in 8 or 4 bits",
        )
    return sum(cache_layer_bytes(c, context, kv_bits, itemsize) for c in architecture.cache)


def prefill_bytes(architecture: Architecture, context: int, kv_bits: int, itemsize: int) -> int:
    """Return the activations of one prefill step and the logits that follow: an estimate.

    Attention over a quantized cache is not fused in mlx-lm: its scores, heads x tokens x context,
    are held whole (mlx_lm/models/base.py, quantized_scaled_dot_product_attention).
    """
    tokens = min(context, _PREFILL_TOKENS)
    width = _LIVE_HIDDEN * architecture.hidden_size
    width += _LIVE_INTERMEDIATE * architecture.intermediate_size
    width *= max(1, architecture.experts_per_token)
    is_quantized = kv_bits < _OWN_TYPE
    scores = architecture.attention_heads * tokens * context if is_quantized else 0
    return (tokens * width + scores) * itemsize + architecture.vocabulary_size * 4


def plan_memory(inventory: Inventory, device: Device, context: int, kv_bits: int) -> MemoryPlan:
    """Split a device's memory at a context.

    Raises InvalidRequestError for a context beyond the model's and for unknown `kv_bits`.
    """
    _check_context(inventory.architecture, context)
    return _plan(inventory.architecture, device, context, kv_bits, element_bytes(inventory))


def _plan(
    architecture: Architecture, device: Device, context: int, kv_bits: int, itemsize: int
) -> MemoryPlan:
    return MemoryPlan(
        working_set_bytes=device.working_set_bytes,
        usable_bytes=device.working_set_bytes * _USABLE_TENTHS // 10,
        kv_cache_bytes=kv_cache_bytes(architecture, context, kv_bits, itemsize),
        prefill_bytes=prefill_bytes(architecture, context, kv_bits, itemsize),
        reserve_bytes=_RESERVE_BYTES,
    )


def largest_context(inventory: Inventory, device: Device, weights_bytes: int, kv_bits: int) -> int:
    """Return the most tokens of context, up to the model's own limit, at which weights fit; or 0.

    The parts of the memory never shrink with the context, so bisection finds the last that fits.
    """
    architecture, itemsize = inventory.architecture, element_bytes(inventory)
    fits, fails = 0, architecture.max_context + 1
    while fails - fits > 1:
        middle = (fits + fails) // 2
        plan = _plan(architecture, device, middle, kv_bits, itemsize)
        if weights_bytes <= plan.weights_limit_bytes:
            fits = middle
        else:
            fails = middle
    return fits


def _check_context(architecture: Architecture, context: int) -> None:
    if not 0 < context <= (architecture.max_context or math.inf):
        raise InvalidRequestError(
            where="context",
            found=f"{context} tokens",
            expected=f"1 to {architecture.max_context}, the model's own limit",
            remedy="ask for a shorter context",
        )
