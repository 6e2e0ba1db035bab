"""The header of a safetensors file, checked before any byte of data is trusted.

The rules are those of the format's own validator (huggingface/safetensors, `SafeTensors`): a length
of at most 100 MB, offsets that tile the data without overlap or hole, and sizes that follow from
dtype and shape.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidModelError

__all__ = [
    "LENGTH_BYTES",
    "MAX_HEADER_BYTES",
    "SourceFile",
    "TensorRef",
    "header_length",
    "parse_header",
    "read_header",
    "read_tensor",
]

MAX_HEADER_BYTES: Final = 100_000_000
"""Longest header accepted, as in the format's reference implementation."""

LENGTH_BYTES: Final = 8
"""Bytes of the length prefix, little-endian."""
_MAX_DIMENSIONS: Final = 16
_LARGEST: Final = 2**63
_MOST_EMPTY: Final = 1000
_KEYS: Final = frozenset({"dtype", "shape", "data_offsets"})
_DTYPES: Final = {dtype.value: dtype for dtype in Dtype}
_REMEDY: Final = "download the file again"


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Where a source tensor lies: `offset` counts from the start of `file`."""

    file: str
    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A weight file: its name in the folder, its size and its tensors in order of offset."""

    name: str
    nbytes: int
    tensors: tuple[TensorRef, ...]


def read_header(path: Path) -> SourceFile:
    """Read and check the header of a local file; InvalidModelError names what is wrong."""
    if not path.is_file():
        raise _invalid(path.name, "a folder, a pipe or a broken link", "a file")
    nbytes = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(LENGTH_BYTES)
        length = header_length(prefix, path.name, nbytes)
        return parse_header(path.name, file.read(length), nbytes)


def read_tensor(folder: Path, tensor: TensorRef) -> bytes:
    """Return the bytes of a tensor of a file in `folder`."""
    with (folder / tensor.file).open("rb") as file:
        file.seek(tensor.offset)
        return file.read(tensor.nbytes)


def header_length(prefix: bytes, filename: str, nbytes: int) -> int:
    """Return the header's length from a file's first 8 bytes; `nbytes` is the whole file's size."""
    length = int.from_bytes(prefix, "little")
    if len(prefix) < LENGTH_BYTES or not 2 <= length <= MAX_HEADER_BYTES:  # noqa: PLR2004, "{}"
        raise _invalid(
            filename,
            f"a header length of {length} bytes in a file of {nbytes}",
            f"between 2 and {MAX_HEADER_BYTES}",
        )
    if LENGTH_BYTES + length > nbytes:
        raise _invalid(
            filename,
            f"{nbytes} bytes",
            f"at least the {LENGTH_BYTES + length} that the header needs: the file is truncated",
        )
    return length


def parse_header(filename: str, header: bytes, nbytes: int) -> SourceFile:
    """Return the tensors that `header` describes; `nbytes` is the whole file's size."""
    entries = _decode(filename, header)
    _check_metadata(filename, entries.pop("__metadata__", None))
    first = LENGTH_BYTES + len(header)
    described = (_tensor(filename, name, entry, first) for name, entry in entries.items())
    tensors = list(_few_empty(filename, described))
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    _check_tiling(filename, tensors, first, nbytes)
    return SourceFile(filename, nbytes, tuple(tensors))


def _decode(filename: str, header: bytes) -> JsonObject:
    def unique(pairs: list[tuple[str, Any]]) -> JsonObject:
        value = dict(pairs)
        if len(value) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            twice = next(name for name, count in counts.items() if count > 1)
            raise _invalid(filename, f"the key {twice!r} twice"[:200], "each key once")
        return value

    try:
        value = json.loads(header.decode(), object_pairs_hook=unique)
    except InvalidModelError:
        raise
    except (ValueError, RecursionError) as error:
        raise _invalid(filename, f"a header that is not JSON ({error})", "a JSON object") from error
    if not isinstance(value, dict):
        raise _invalid(filename, f"a header of type {type(value).__name__}", "a JSON object")
    return value


def _check_metadata(filename: str, metadata: object) -> None:
    if metadata is None:  # what `mx.save_safetensors` writes when it is given none
        return
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        found = f"__metadata__ {metadata!r}"[:80]
        raise _invalid(filename, found, "an object of texts")


def _tensor(filename: str, name: str, entry: object, first: int) -> TensorRef:
    where = f"{filename}: {name}"
    if not isinstance(entry, dict) or entry.keys() != _KEYS:
        raise _invalid(where, repr(entry)[:80], "dtype, shape and data_offsets")
    stored = entry["dtype"]
    dtype = _DTYPES.get(stored) if isinstance(stored, str) else None
    if dtype is None:
        raise _invalid(where, f"dtype {stored!r}", f"one of {', '.join(Dtype)}")
    shape = _integers(where, entry["shape"], "shape")
    if len(shape) > _MAX_DIMENSIONS:
        raise _invalid(where, f"{len(shape)} dimensions", f"at most {_MAX_DIMENSIONS}")
    offsets = _integers(where, entry["data_offsets"], "data_offsets")
    expected = math.prod(shape) * dtype.itemsize
    if len(offsets) != 2 or offsets[1] - offsets[0] != expected:  # noqa: PLR2004, start and stop
        size = f"{expected} bytes" if expected < _LARGEST else "more bytes than a file can have"
        raise _invalid(where, f"data_offsets {list(offsets)}"[:80], f"{size} by its shape")
    return TensorRef(filename, name, dtype, shape, first + offsets[0], expected)


def _integers(where: str, value: object, what: str) -> tuple[int, ...]:
    if not isinstance(value, list) or any(
        type(item) is not int or not 0 <= item < _LARGEST for item in value
    ):
        found = repr(value)[:80] if isinstance(value, list) else type(value).__name__
        raise _invalid(where, f"{what} {found}", "a list of whole numbers from 0 to 2^63")
    return tuple(value)


def _few_empty(filename: str, tensors: Iterable[TensorRef]) -> Iterator[TensorRef]:
    """Refuse names that cost a file nothing: each takes kilobytes once a model is asked for it."""
    empty = 0
    for tensor in tensors:
        empty += not tensor.nbytes
        if empty > _MOST_EMPTY:
            found = f"more than {_MOST_EMPTY} tensors without values"
            raise _invalid(filename, found, f"at most {_MOST_EMPTY}")
        yield tensor


def _check_tiling(filename: str, tensors: Iterable[TensorRef], first: int, nbytes: int) -> None:
    position = first
    for tensor in tensors:
        if tensor.offset != position:
            problem = "an overlap" if tensor.offset < position else "a hole"
            where = f"{filename}: {tensor.name}"
            raise _invalid(where, f"{problem} at byte {tensor.offset}", f"data from {position} on")
        position += tensor.nbytes
    if position != nbytes:
        state = "truncated" if nbytes < position else "longer than its header says"
        raise _invalid(filename, f"{nbytes} bytes", f"{position}: the file is {state}")


def _invalid(where: str, found: str, expected: str) -> InvalidModelError:
    return InvalidModelError(where=where, found=found, expected=expected, remedy=_REMEDY)
