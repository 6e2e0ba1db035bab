"""The arrays that mlx-lm makes of a model's tensors, by their names: experts are stacked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.inventory import StoredArray
from bitbudget.workers.files.element_type import FLOATS
from bitbudget.workers.files.headers import TensorRef

__all__ = ["stored_arrays"]

_EXPERT: Final = re.compile(r"(.+)\.experts\.(\d{1,5})\.(\w+)\.weight")
_COMPUTED_ANEW: Final = re.compile(r"(?:^|\.)rotary_emb\.(?:inv_freq|cos_cached|sin_cached)$")


def stored_arrays(
    tensors: Iterable[TensorRef],
    experts: Mapping[str, str],
    written: Dtype | None,
    *,
    count: int = 0,
) -> dict[str, StoredArray]:
    """Return the arrays by name, floats in the type that is `written`, where there is one.

    `experts` has the part of the stack that a projection of one expert becomes, by the projection's
    name; `count` of them are in each stack, 0 where nobody says. Raises InvalidModelError for a
    stack that lacks experts or whose experts differ.
    """
    found: dict[str, StoredArray] = {}
    stacks: dict[str, dict[int, TensorRef]] = {}
    for tensor in tensors:
        expert = _EXPERT.fullmatch(tensor.name)
        if expert and expert[3] in experts:
            name = f"{expert[1]}.switch_mlp.{experts[expert[3]]}.weight"
            stacks.setdefault(name, {})[int(expert[2])] = tensor
        elif not _COMPUTED_ANEW.search(tensor.name):
            found[tensor.name] = _array(tensor.name, tensor, tensor.shape, written)
    for name, parts in stacks.items():
        first = _check_stack(name, parts, count or len(parts))
        found[name] = _array(name, first, (len(parts), *first.shape), written)
    return found


def _array(
    name: str, tensor: TensorRef, shape: tuple[int, ...], written: Dtype | None
) -> StoredArray:
    is_cast = written is not None and tensor.dtype in FLOATS
    return StoredArray(name, written if is_cast and written else tensor.dtype, shape)


def _check_stack(name: str, parts: Mapping[int, TensorRef], count: int) -> TensorRef:
    """Return one of `count` experts when all are there and alike."""
    first = next(iter(parts.values()))
    alike = all((t.dtype, t.shape) == (first.dtype, first.shape) for t in parts.values())
    if parts.keys() != set(range(count)) or not alike:
        raise InvalidModelError(
            where=name,
            found=f"{len(parts)} experts" + ("" if alike else " of different shapes or types"),
            expected=f"the {count} experts of config.json, all alike",
            remedy="download the missing shard",
        )
    return first
