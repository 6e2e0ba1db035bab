"""Tensors of the files that mlx-lm's class drops when it loads: told, since nobody else does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import mlx.core as mx

from bitbudget.workers.files.layouts import SCALE
from bitbudget.workers.models.sanitize import Sanitized

__all__ = ["dropped_notes"]

_NUMBER: Final = re.compile(r"\.\d+(?=\.|$)")
_COMPUTED: Final = re.compile(
    r"(?:inv_freq|(?:cos|sin)_cached|attn\.(?:masked_)?bias|attention\.(?:masked_)?bias"
    r"|position_ids|_scale_inv)$"
)
"""What every library computes anew: rotary frequencies, causal masks, positions."""

_MOST_KINDS: Final = 256


def dropped_notes(
    source: Mapping[str, mx.array],
    known: Sanitized,
    transform: Callable[[dict[str, mx.array]], Sanitized],
) -> tuple[str, ...]:
    """Return a sentence for each kind of tensor in `source` that `known` holds nothing of.

    `known` is what `transform` makes of `source`. A kind is a name with its numbers left out; one
    is dropped where `transform` makes the same of the others alone. Nothing is evaluated.
    """
    used = {name for origin in known.origins.values() for name in origin or ()}
    kinds: dict[str, list[str]] = {}
    for name in source:
        decoded = f"{name}{SCALE}" in source
        if name not in used and not decoded and not _COMPUTED.search(name):
            kinds.setdefault(_NUMBER.sub(".N", name), []).append(name)
    return tuple(_note(kind, names) for kind, names in _dropped(kinds, source, known, transform))


def _dropped(
    kinds: Mapping[str, list[str]],
    source: Mapping[str, mx.array],
    known: Sanitized,
    transform: Callable[[dict[str, mx.array]], Sanitized],
) -> Iterator[tuple[str, list[str]]]:
    for kind, names in list(kinds.items())[:_MOST_KINDS]:
        rest = {name: array for name, array in source.items() if name not in names}
        try:
            without = transform(rest)
        except Exception:  # noqa: BLE001, S112, a class that misses a tensor has a use for it
            continue
        if _outline(without) == _outline(known):
            yield kind, names


def _outline(known: Sanitized) -> dict[str, object]:
    return {
        name: (known.origins.get(name), array.shape, array.dtype)
        for name, array in known.weights.items()
    }


def _note(kind: str, names: list[str]) -> str:
    tensors = "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"
    return f"{tensors} left out, for which mlx-lm's class has no use: {kind}"
