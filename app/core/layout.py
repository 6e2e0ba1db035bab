"""The exact bytes of a finished checkpoint, before a single one is written.

A safetensors file is 8 bytes of header length, a JSON header that may end in spaces, and the data
(format description of huggingface/safetensors). The offsets in the header have as many digits as
they need, so the header of an ordinary file depends on every choice at once. Ours reserves the
same room for every array whatever its offsets are and pads the header with spaces: the bytes of a
checkpoint are then a plain sum over modules, which is what makes an exact budget a knapsack.

Shards are planned from the source sizes alone, so that no choice of formats moves a module to
another file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from bitbudget.app.core.formats import ArraySpec, Format
from bitbudget.app.core.inventory import Inventory, Module, StoredArray

__all__ = [
    "MAX_SHARD_BYTES",
    "CheckpointLayout",
    "Shard",
    "header_bytes",
    "module_arrays",
    "module_bytes",
    "plan_checkpoint",
    "planned_bytes",
]

MAX_SHARD_BYTES: Final = 5 * 10**9
"""Source bytes per shard, as mlx-lm's `make_shards` and the Hub use."""

_METADATA: Final = {"format": "mlx"}
_OFFSET_DIGITS: Final = 13
_ALIGNMENT: Final = 8
_LENGTH_BYTES: Final = 8


def _align(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def _reserved_header_bytes(array: StoredArray) -> int:
    """Room kept for this array in the header, a multiple of 8."""
    widest = 10**_OFFSET_DIGITS - 1
    return _align(len(f"{_entry(array, widest, widest)},".encode()))


def _entry(array: StoredArray, start: int, stop: int) -> str:
    value = {"dtype": array.dtype.value, "shape": list(array.shape), "data_offsets": [start, stop]}
    return f"{json.dumps(array.name)}:{json.dumps(value, separators=(',', ':'))}"


def _prefix() -> str:
    return '{"__metadata__":' + json.dumps(_METADATA, separators=(",", ":")) + ","


_EMPTY_HEADER_BYTES: Final = _align(len(_prefix()) + 1)


def header_bytes(arrays: Iterable[StoredArray]) -> int:
    """Bytes before the data of a file that holds `arrays`: length prefix and padded header."""
    reserved = sum(map(_reserved_header_bytes, arrays))
    return _LENGTH_BYTES + _EMPTY_HEADER_BYTES + reserved


def module_arrays(module: Module, format_: Format) -> tuple[StoredArray, ...]:
    """Return the arrays that hold `module` in `format_`."""
    return tuple(_stored(module.path, spec) for spec in format_.arrays(module.shape, module.dtype))


def _stored(path: str, spec: ArraySpec) -> StoredArray:
    return StoredArray(f"{path}.{spec.suffix}", spec.dtype, spec.shape)


def module_bytes(module: Module, format_: Format) -> int:
    """Exact bytes that `module` adds to the checkpoint in `format_`, its header room included."""
    return planned_bytes(module_arrays(module, format_))


def planned_bytes(arrays: Iterable[StoredArray]) -> int:
    """Bytes that `arrays` add to a checkpoint: their data and the room kept in a header."""
    return sum(array.nbytes + _reserved_header_bytes(array) for array in arrays)


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of the checkpoint: its arrays with the offset of each from the start of the file."""

    filename: str
    header: bytes
    offsets: Mapping[str, int]
    arrays: tuple[StoredArray, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class CheckpointLayout:
    """Which arrays go to which file, planned from the inventory alone."""

    inventory: Inventory
    shards: tuple[tuple[Module | StoredArray, ...], ...]

    @property
    def fixed_bytes(self) -> int:
        """Bytes that no choice of formats changes: empty headers and passthrough arrays."""
        empty = len(self.shards) * header_bytes(())
        return empty + planned_bytes(self.inventory.passthrough)

    def file_bytes(self, formats: Mapping[str, Format]) -> int:
        """Exact sum of the `*.safetensors` files' bytes for one format per module path."""
        return self.fixed_bytes + sum(
            module_bytes(module, formats[module.path]) for module in self.inventory.modules
        )

    def files(self, formats: Mapping[str, Format]) -> tuple[Shard, ...]:
        """Return every file with its header and the place of every array.

        Arrays are ordered by falling element size so that each is aligned to its own elements.
        """
        total = len(self.shards)
        return tuple(
            _shard(_filename(index, total), [a for item in items for a in _arrays(item, formats)])
            for index, items in enumerate(self.shards, start=1)
        )


def _arrays(item: Module | StoredArray, formats: Mapping[str, Format]) -> tuple[StoredArray, ...]:
    if isinstance(item, StoredArray):
        return (item,)
    return module_arrays(item, formats[item.path])


def _filename(index: int, total: int) -> str:
    if total == 1:
        return "model.safetensors"
    return f"model-{index:05d}-of-{total:05d}.safetensors"


def _shard(filename: str, arrays: list[StoredArray]) -> Shard:
    ordered = sorted(arrays, key=lambda array: -array.dtype.itemsize)
    first = header_bytes(ordered)
    offsets: dict[str, int] = {}
    entries: list[str] = []
    position = 0
    for array in ordered:
        entries.append(_entry(array, position, position + array.nbytes))
        offsets[array.name] = first + position
        position += array.nbytes
    text = _prefix() + ",".join(entries) + "}"
    padded = text.encode().ljust(first - _LENGTH_BYTES)
    header = len(padded).to_bytes(_LENGTH_BYTES, "little") + padded
    return Shard(filename, header, offsets, tuple(ordered), first + position)


def plan_checkpoint(
    inventory: Inventory, max_shard_bytes: int = MAX_SHARD_BYTES
) -> CheckpointLayout:
    """Cut the inventory into shards by source bytes; a larger array has a shard of its own."""
    shards: list[list[Module | StoredArray]] = [[]]
    filled = 0
    items: list[Module | StoredArray] = [*inventory.modules, *inventory.passthrough]
    for item in items:
        nbytes = math.prod(item.shape) * item.dtype.itemsize
        if filled and filled + nbytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(item)
        filled += nbytes
    return CheckpointLayout(inventory, tuple(tuple(shard) for shard in shards))
