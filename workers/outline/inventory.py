"""The inventory that mlx-lm's class would give, from config.json and the names in the headers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import InvalidModelError, ModelClassNeededError
from bitbudget.app.core.inventory import Inventory, Module, ModuleKind, StoredArray
from bitbudget.distribution import install_hint
from bitbudget.workers.files.dimensions import architecture_of, number, stated_layers
from bitbudget.workers.files.element_type import written_type
from bitbudget.workers.files.headers import TensorRef
from bitbudget.workers.outline.arrays import stored_arrays
from bitbudget.workers.outline.caches import cache_layers
from bitbudget.workers.outline.families import FAMILIES, Family

__all__ = ["family_of", "named_inventory", "needs_class"]

_EMBEDDING: Final = "model.embed_tokens"
_HEAD: Final = "lm_head"
_IN_LAYER: Final = re.compile(r"model\.layers\.(\d{1,5})\.(.+)\.(?:weight|bias)")
_MATRIX: Final = 2


def family_of(config: JsonObject) -> Family:
    """Return the family of a model; ModelClassNeededError where the table has none."""
    family = FAMILIES.get(config["model_type"])
    if family is None:
        raise needs_class(config, f"without it only {', '.join(sorted(FAMILIES))} are known")
    return family


def needs_class(config: JsonObject, reason: str) -> ModelClassNeededError:
    """Return the error for what only mlx-lm's class can tell, with the line that installs it."""
    return ModelClassNeededError(
        model_type=config["model_type"],
        reason=reason,
        remedy=install_hint("worker"),
    )


def named_inventory(
    config: JsonObject, tensors: Iterable[TensorRef], notes: tuple[str, ...] = ()
) -> Inventory:
    """Return every module and array of the model, in the order of mlx-lm's class.

    Raises ModelClassNeededError for a type, a tensor or a mixture of element types that the table
    does not foresee, and InvalidModelError for incomplete experts or layers.
    """
    family, tensors = family_of(config), tuple(tensors)
    arrays = stored_arrays(
        tensors,
        family.experts,
        written_type(config, tensors),
        count=number(config, "num_experts", "num_local_experts"),
    )
    layers = _check_layers(config, arrays)
    names = _in_order(config, family, arrays, layers)
    _check_types(config, arrays.values())
    modules = tuple(
        _module(config, family, arrays[name], arrays) for name in names if _is_module(arrays[name])
    )
    passthrough = tuple(arrays[name] for name in names if not _is_module(arrays[name]))
    caches = cache_layers(config, family, arrays, layers)
    return Inventory(architecture_of(config, modules, layers, caches), modules, passthrough, notes)


def _check_layers(config: JsonObject, arrays: Mapping[str, StoredArray]) -> int:
    """Return the number of layers when the configuration and the names agree on it."""
    found = {int(match[1]) for match in map(_IN_LAYER.fullmatch, arrays) if match}
    stated = stated_layers(config)
    if not found or found != set(range(stated)):
        raise InvalidModelError(
            where="config.json: num_hidden_layers",
            found=f"{stated}, and tensors of {len(found)} layers",
            expected="every layer, and no other",
            remedy="download the missing shard, or use the config.json that belongs to the weights",
        )
    return stated


def _in_order(
    config: JsonObject, family: Family, arrays: Mapping[str, StoredArray], layers: int
) -> list[str]:
    """Return the names of all arrays in the order of the class."""
    head = [_HEAD] if f"{_HEAD}.weight" in arrays else []
    parts = [_EMBEDDING, *_layer_parts(family, arrays, layers), "model.norm", *head]
    names = [
        f"{part}.{suffix}"
        for part in parts
        for suffix in ("weight", "bias")
        if suffix == "weight" or (f"{part}.bias" in arrays and _may_be_biased(family, part))
    ]
    odd = sorted(arrays.keys() ^ set(names))
    if odd:
        state = "is not there" if odd[0] in names else "is none that the table of names has"
        raise needs_class(config, f"{odd[0]} {state}")
    return names


def _layer_parts(family: Family, arrays: Mapping[str, StoredArray], layers: int) -> Iterator[str]:
    """Yield the parts of every layer, each of the first kind whose parts are all there."""
    for layer in range(layers):
        paths = [[f"model.layers.{layer}.{name}" for name in kind] for kind in family.layers]
        whole = (kind for kind in paths if all(f"{path}.weight" in arrays for path in kind))
        yield from next(whole, paths[0])


def _may_be_biased(family: Family, part: str) -> bool:
    name = part.split(".", 3)[-1] if part.startswith("model.layers.") else part
    return name in family.biased


def _check_types(config: JsonObject, arrays: Iterable[StoredArray]) -> None:
    """Refuse a mixture of types: what keys and values become of it only a forward pass tells."""
    types = sorted({array.dtype.value for array in arrays})
    if len(types) > 1:
        raise needs_class(config, f"its tensors are a mixture of {' and '.join(types)}")


def _is_module(array: StoredArray) -> bool:
    return array.name.endswith(".weight") and len(array.shape) >= _MATRIX


def _module(
    config: JsonObject, family: Family, array: StoredArray, arrays: Mapping[str, StoredArray]
) -> Module:
    path = array.name.removesuffix(".weight")
    layer = _IN_LAYER.fullmatch(array.name)
    kind = ModuleKind.EMBEDDING if path == _EMBEDDING else ModuleKind.LINEAR
    if len(array.shape) > _MATRIX:
        kind = ModuleKind.SWITCH_LINEAR
    is_stack = kind is ModuleKind.SWITCH_LINEAR
    return Module(
        path=path,
        kind=kind,
        shape=array.shape,
        dtype=array.dtype,
        decision_group=path,
        layer=int(layer[1]) if layer else None,
        experts_per_token=number(config, "num_experts_per_tok") if is_stack else 0,
        is_tied_head=path == _EMBEDDING and f"{_HEAD}.weight" not in arrays,
        floor_bits=next((b for end, b in family.floors.items() if path.endswith(end)), 0),
    )
