"""What formats of the KV cache leave for the weights of Llama-3.1-8B: the core's arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bitbudget.app.core.devices import Device, device
from bitbudget.app.core.inventory import Architecture, CacheKind, CacheLayer, Inventory
from bitbudget.app.core.kv import KvFormat, KvSide, plan_with_caches
from bitbudget.app.core.runtime import Runtime

__all__ = ["llama_8b", "memory_table"]

WEIGHTS: Final = 8_030_261_248
_LAYERS, _KEY_HEADS, _WIDTH = 32, 8, 128
_EIGHT_GB: Final = Device("8gb", "8 GB", 8 * 10**9, 1.0, 8 * 10**9, "a round number")
_DEVICES: Final = (_EIGHT_GB, device("m1-8gb"), device("m1-16gb"))
_BOTH: Final = (KvFormat(16), KvFormat(8, 64), KvFormat(4, 64))
_APART: Final = (
    KvFormat(4, rotated=True),
    KvFormat(3, rotated=True),
    KvFormat(2, rotated=True),
)


def llama_8b() -> Inventory:
    """Return the shapes of Llama-3.1-8B (its config.json), without modules."""
    cache = tuple(
        CacheLayer(
            layer,
            CacheKind.FULL,
            elements_per_token=2 * _KEY_HEADS * _WIDTH,
            bytes_per_token=2 * _KEY_HEADS * _WIDTH * 2,
            head_width=_WIDTH,
            value_width=_WIDTH,
        )
        for layer in range(_LAYERS)
    )
    architecture = Architecture(
        model_type="llama",
        hidden_size=4096,
        intermediate_size=14_336,
        vocabulary_size=128_256,
        layers=_LAYERS,
        attention_heads=32,
        max_context=131_072,
        cache=cache,
    )
    return Inventory(architecture, (), ())


def memory_table(context: int) -> str:
    """Return what every format leaves for weights at `context` tokens, and bits per weight."""
    lines = [
        "| memory | runtime | KV cache | cache | prefill | left for weights | bits per weight |",
        "|---|---|---|---|---|---|---|",
    ]
    for chip in _DEVICES:
        for format_ in _BOTH:
            runtimes = Runtime if format_.group_size else (Runtime.STOCK,)
            sides = {KvSide.BOTH: format_}
            lines += [_line(chip, context, format_, sides, runtime) for runtime in runtimes]
        for format_ in _APART:
            sides = {KvSide.KEYS: format_, KvSide.VALUES: format_}
            lines.append(_line(chip, context, format_, sides, Runtime.BITBUDGET))
    return "\n".join(lines)


def _line(
    chip: Device,
    context: int,
    format_: KvFormat,
    sides: Mapping[KvSide, KvFormat],
    runtime: Runtime,
) -> str:
    formats = dict.fromkeys(range(_LAYERS), sides)
    plan = plan_with_caches(llama_8b(), chip, context, formats, runtime)
    left = plan.weights_limit_bytes
    bits = f"{left * 8 / WEIGHTS:.2f}" if left > 0 else "none"
    sizes = (plan.kv_cache_bytes, plan.prefill_bytes, left)
    shown = " | ".join(f"{size / 1e9:.2f} GB" for size in sizes)
    return f"| {chip.title} | {runtime.value} | {format_} | {shown} | {bits} |"
