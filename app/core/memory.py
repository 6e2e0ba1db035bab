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
from bitbudget.app.core.runtime import Runtime

__all__ = [
    "FUSED_WIDTHS",
    "KV_BITS",
    "QUERY_TILE",
    "MemoryPlan",
    "attention_bytes",
    "cache_layer_bytes",
    "cache_tokens",
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

QUERY_TILE: Final = 512
"""Queries that `bitbudget.kv.attention` attends for at once where MLX holds their scores."""

FUSED_WIDTHS: Final = (64, 80, 128)
"""Head widths whose attention MLX's GPU backend fuses at prefill, so that no scores are held (mlx
0.32, scaled_dot_product_attention.cpp)."""

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


def cache_tokens(layer: CacheLayer, context: int) -> int:
    """Return the tokens that a layer's cache has room for at `context` tokens."""
    tokens = -(-context // _CACHE_STEP) * _CACHE_STEP
    return min(tokens, layer.window) if layer.window else tokens


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
    tokens = cache_tokens(layer, context)
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


def prefill_bytes(
    architecture: Architecture,
    context: int,
    kv_bits: int,
    itemsize: int,
    runtime: Runtime = Runtime.STOCK,
) -> int:
    """Return the activations of one prefill step and the logits that follow: an estimate.

    `kv_bits` below 16 says that some layer's cache is quantized; see `attention_bytes`.
    """
    tokens = min(context, _PREFILL_TOKENS)
    width = _LIVE_HIDDEN * architecture.hidden_size
    width += _LIVE_INTERMEDIATE * architecture.intermediate_size
    width *= max(1, architecture.experts_per_token)
    attention = (
        attention_bytes(architecture, tokens, context, itemsize, runtime)
        if kv_bits < _OWN_TYPE
        else 0
    )
    return tokens * width * itemsize + attention + architecture.vocabulary_size * 4


def attention_bytes(
    architecture: Architecture, tokens: int, context: int, itemsize: int, runtime: Runtime
) -> int:
    """Return what attention of `tokens` queries holds over one layer's quantized cache.

    mlx-lm multiplies packed keys, so scores, heads x tokens x context, and the causal mask, a byte
    for tokens x context, are held whole (mlx_lm/models/base.py,
    quantized_scaled_dot_product_attention). `bitbudget.kv.attention` holds one layer's keys and
    values dequantized, with a byte for each code on the way, and scores and mask of a tile of
    queries where MLX has no fused kernel. Queries and outputs are counted with the block's other
    activations. MLX's CPU build, which fuses nothing, allocates what this says within 10 %
    (tests/bitbudget/kv/test_memory.py); on Metal it has not been measured.
    """
    row = context * (architecture.attention_heads * itemsize + 1)
    if runtime is not Runtime.BITBUDGET:
        return tokens * row
    full = [layer for layer in architecture.cache if layer.kind is CacheKind.FULL]
    elements = max((layer.elements_per_token for layer in full), default=0) * context
    unfused = any(layer.head_width not in FUSED_WIDTHS for layer in full)
    tile = min(tokens, QUERY_TILE) * row if unfused else 0
    return elements * (itemsize + 1) + tile


def plan_memory(
    inventory: Inventory,
    device: Device,
    context: int,
    kv_bits: int,
    runtime: Runtime = Runtime.STOCK,
) -> MemoryPlan:
    """Split a device's memory at a context, for the program that runs the checkpoint.

    Raises InvalidRequestError for a context beyond the model's and for unknown `kv_bits`.
    """
    _check_context(inventory.architecture, context)
    itemsize = element_bytes(inventory)
    return _plan(inventory.architecture, device, context, kv_bits, itemsize, runtime)


def _plan(  # noqa: PLR0917 - what a device's memory depends on
    architecture: Architecture,
    device: Device,
    context: int,
    kv_bits: int,
    itemsize: int,
    runtime: Runtime,
) -> MemoryPlan:
    return MemoryPlan(
        working_set_bytes=device.working_set_bytes,
        usable_bytes=device.working_set_bytes * _USABLE_TENTHS // 10,
        kv_cache_bytes=kv_cache_bytes(architecture, context, kv_bits, itemsize),
        prefill_bytes=prefill_bytes(architecture, context, kv_bits, itemsize, runtime),
        reserve_bytes=_RESERVE_BYTES,
    )


def largest_context(
    inventory: Inventory,
    device: Device,
    weights_bytes: int,
    kv_bits: int,
    runtime: Runtime = Runtime.STOCK,
) -> int:
    """Return the most tokens of context, up to the model's own limit, at which weights fit; or 0.

    The parts of the memory never shrink with the context, so bisection finds the last that fits.
    """
    architecture, itemsize = inventory.architecture, element_bytes(inventory)
    fits, fails = 0, architecture.max_context + 1
    while fails - fits > 1:
        middle = (fits + fails) // 2
        plan = _plan(architecture, device, middle, kv_bits, itemsize, runtime)
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
