"""The key-value cache of every layer, from config.json and the widths of the projections."""

from __future__ import annotations

from collections.abc import Mapping

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.inventory import CacheKind, CacheLayer, StoredArray
from bitbudget.workers.files.dimensions import number
from bitbudget.workers.files.synonyms import sliding_pattern
from bitbudget.workers.outline.families import Family, Windows

__all__ = ["cache_layers"]


def cache_layers(
    config: JsonObject, family: Family, arrays: Mapping[str, StoredArray], layers: int
) -> tuple[CacheLayer, ...]:
    """Return the caches of all layers, keys and values in the type of the weights.

    Raises InvalidModelError where the keys' width is not one of the stated heads.
    """
    windows = _windows(config, family, layers)
    return tuple(_cache(config, arrays, layer, window) for layer, window in enumerate(windows))


def _cache(
    config: JsonObject, arrays: Mapping[str, StoredArray], layer: int, window: int
) -> CacheLayer:
    heads = number(config, "num_attention_heads")
    groups = number(config, "num_key_value_heads") or heads
    keys = arrays.get(f"model.layers.{layer}.self_attn.k_proj.weight")
    whole = number(config, "hidden_size") // max(heads, 1) * groups
    outputs = whole if keys is None else keys.shape[0]
    if not groups or outputs % groups:
        raise InvalidModelError(
            where=f"model.layers.{layer}.self_attn.k_proj.weight",
            found=f"{outputs} outputs",
            expected=f"a multiple of the {groups} heads of keys that config.json states",
            remedy="use the config.json that belongs to the weights",
        )
    itemsize = next(iter(arrays.values())).dtype.itemsize
    return CacheLayer(
        layer,
        CacheKind.SLIDING if window else CacheKind.FULL,
        elements_per_token=2 * outputs,
        bytes_per_token=2 * outputs * itemsize,
        head_width=outputs // groups,
        window=window,
        value_width=outputs // groups,
    )


def _windows(config: JsonObject, family: Family, layers: int) -> list[int]:
    """Return the tokens that each layer keeps, 0 for all."""
    window = number(config, "sliding_window") or family.window
    types = config.get("layer_types")
    stated = types if isinstance(types, list) and len(types) == layers else None
    match family.windows:
        case Windows.NEVER:
            return [0] * layers
        case Windows.BY_PATTERN:
            pattern = sliding_pattern(types) or number(config, "sliding_window_pattern")
            pattern = pattern or family.pattern
            return [0 if (layer + 1) % pattern == 0 else window for layer in range(layers)]
        case Windows.ALL_BUT_EACH_FOURTH if stated is None:
            return [0 if (layer + 1) % 4 == 0 else window for layer in range(layers)]
        case _:
            kinds = stated or ["full_attention"] * layers
            return [window if kind != "full_attention" else 0 for kind in kinds]
