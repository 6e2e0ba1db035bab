"""A model's configuration in the words of mlx-lm's class for it.

transformers 5 writes `rope_parameters` and `dtype` where transformers 4 wrote `rope_theta`,
`rope_scaling`, `partial_rotary_factor` and `torch_dtype`. Most classes of mlx-lm read the old names
only, and run with a default of their own where they find none. What has an equal meaning is said
under the names that the class reads; what its class cannot express is refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from importlib.metadata import version
from typing import Any, Final

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import UnsupportedModelError
from bitbudget.workers.files.language_part import TEXT, text_part
from bitbudget.workers.files.synonyms import filled, sliding_pattern
from bitbudget.workers.models.library import model_classes
from bitbudget.workers.models.unread_fields import same_setting, unread_fields

__all__ = ["accepted_fields", "understood", "window_notes"]

_THETA: Final = ("rope_theta", "rotary_emb_base", "rope_embedding_base")
_PARTIAL: Final = ("partial_rotary_factor", "rotary_pct")
_SLIDING_THETA: Final = ("rope_local_base_freq", "swa_rope_theta", "rope_local_theta")
_FULL: Final = "full_attention"
_SLIDING: Final = "sliding_attention"
_ALWAYS_SLIDING: Final = ("gemma2", "mistral", "mixtral", "phi3", "phimoe", "starcoder2")
_PLAIN: Final = ("default", None)


def understood(config: JsonObject) -> JsonObject:
    """Return `config` with every setting under the name that mlx-lm's class reads.

    A part `text_config` is treated alike. Raises UnsupportedModelError for a setting that changes
    what transformers computes and that the class has no field for.
    """
    result = _translated(config, accepted_fields(config))
    text = text_part(config)
    if text:
        inner = {"model_type": config.get("model_type"), **text}
        known = accepted_fields(inner) if "model_type" in text else None
        result[TEXT] = _translated(inner, known, of_model=text)
    return result


def accepted_fields(config: Mapping[str, Any]) -> frozenset[str] | None:
    """Return the names that mlx-lm's class for this type reads; None when there is no such class.

    A class that hands a whole part of the configuration on to another one counts as none.
    """
    try:
        arguments_class = model_classes(dict(config))[1]
    except (ValueError, AttributeError, KeyError):
        return None
    names = frozenset(inspect.signature(arguments_class).parameters)
    return None if TEXT in names else names


def _translated(
    config: JsonObject,
    accepted: frozenset[str] | None,
    of_model: JsonObject | None = None,
) -> JsonObject:
    result = dict(config if of_model is None else of_model)
    if "torch_dtype" not in result and isinstance(result.get("dtype"), str):
        result["torch_dtype"] = result["dtype"]
    scaling = result.get("rope_scaling")
    if isinstance(scaling, dict) and "type" not in scaling and "rope_type" in scaling:
        result["rope_scaling"] = {**scaling, "type": scaling["rope_type"]}
    rope = result.get("rope_parameters")
    model_type = str(config.get("model_type"))
    if isinstance(rope, dict) and rope:
        result |= _rope(model_type, rope, accepted)
    if accepted is not None:
        result |= filled(model_type, result, accepted)
        _check_layers(model_type, result, accepted)
        _check_unread(model_type, result, accepted)
    return result


def window_notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what to tell of a sliding window that mlx-lm's class does not have."""
    window = config.get("sliding_window")
    windowed = config.get("model_type") in _ALWAYS_SLIDING or config.get("use_sliding_window")
    if not isinstance(window, int) or not windowed or config.get("layer_types"):
        return ()
    limit = (
        f"mlx-lm does not limit attention to the last {window} tokens, as this model's makers do"
    )
    return (f"{limit}: beyond them it is another model",)


def _rope(model_type: str, rope: JsonObject, accepted: frozenset[str] | None) -> JsonObject:
    """Return rotary settings under their old names, as far as the class reads them."""
    layers = {kind: part for kind, part in rope.items() if isinstance(part, dict)}
    full = layers.get(_FULL, next(iter(layers.values()))) if layers else rope
    sliding = layers.get(_SLIDING, full)
    reads_new_name = accepted is not None and "rope_parameters" in accepted
    found: JsonObject = {}

    def say(names: Collection[str], value: Any) -> bool:
        known = [name for name in names if accepted is None or name in accepted]
        found.update(dict.fromkeys(known[:1], value))
        return bool(known)

    scaling = _scaling(full)
    if full.get("rope_theta") is not None:
        say(_THETA, full["rope_theta"])
    partial = full.get("partial_rotary_factor")
    if partial is not None and not say(_PARTIAL, partial) and not reads_new_name and partial != 1:
        raise _unread(model_type, "rope_parameters.partial_rotary_factor", partial)
    if not say(("rope_scaling",), scaling) and scaling and not reads_new_name:
        raise _unread(model_type, "rope_parameters.rope_type", full.get("rope_type"))
    if sliding is full or reads_new_name:
        return found
    own = sliding.get("rope_theta")
    if not say(_SLIDING_THETA, own) and own != full.get("rope_theta"):
        raise _unread(model_type, f"rope_parameters.{_SLIDING}.rope_theta", own)
    if _scaling(sliding):
        kind = sliding.get("rope_type")
        raise _unread(model_type, f"rope_parameters.{_SLIDING}.rope_type", kind)
    return found


def _scaling(rope: Mapping[str, Any]) -> JsonObject | None:
    """Return what `rope_scaling` was before transformers 5, None for plain rotary embeddings."""
    kind = rope.get("rope_type", rope.get("type"))
    if kind in _PLAIN:
        return None
    rest = {k: v for k, v in rope.items() if k not in ("rope_theta", "partial_rotary_factor")}
    return rest | {"type": kind, "rope_type": kind}


def _check_layers(model_type: str, config: Mapping[str, Any], accepted: Collection[str]) -> None:
    """Refuse layers in an order that the class, which knows a period alone, cannot have."""
    layers = config.get("layer_types")
    knows_period = "sliding_window_pattern" in accepted and "layer_types" not in accepted
    mixed = isinstance(layers, list) and len(set(layers)) > 1
    if knows_period and mixed and not sliding_pattern(layers):
        raise _unread(model_type, "layer_types", layers)


def _check_unread(model_type: str, config: Mapping[str, Any], accepted: Collection[str]) -> None:
    """Refuse a setting that transformers reads, mlx-lm does not, and that is not the default."""
    for name, default in unread_fields(model_type).items():
        value = config.get(name)
        if name not in accepted and value is not None and not same_setting(value, default):
            raise _unread(model_type, name, value)


def _unread(model_type: str, name: str, value: object) -> UnsupportedModelError:
    return UnsupportedModelError(
        model_type=model_type,
        reason=f"config.json has {name} = {value!r}"[:160] + f", which the class of mlx-lm "
        f"{version('mlx-lm')} for this type does not read: it would compute another model",
        remedy="upgrade mlx-lm, or choose a model without this setting",
    )
