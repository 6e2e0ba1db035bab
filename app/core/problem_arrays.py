"""The `.npz` form of a problem, for those with many options."""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.mckp import MAX_OPTIONS, MAX_TOTAL, Problem, Row
from bitbudget.app.core.mckp.problem import Integers
from bitbudget.app.core.problem import (
    MAX_PROBLEM_BYTES,
    NamedProblem,
    read_problem_json,
    refuse,
    whole,
)

__all__ = ["read_problem", "read_problem_arrays"]

_ZIP_MAGIC = b"PK"
_UNREADABLE = (
    ValueError,
    OSError,
    EOFError,
    SyntaxError,  # NumPy reads a member's header as a Python literal
    tokenize.TokenError,
    MemoryError,
    NotImplementedError,  # an unknown compression
    RuntimeError,  # an encrypted member
    zipfile.BadZipFile,
    zlib.error,
)


def read_problem(data: bytes) -> NamedProblem:
    """Read a problem in either form, told apart by its first bytes."""
    if data[:2] == _ZIP_MAGIC:
        return read_problem_arrays(data)
    return read_problem_json(data)


def read_problem_arrays(data: bytes) -> NamedProblem:
    """Read an `.npz` problem; InvalidRequestError names the first array that is wrong."""
    arrays = _load(data)
    bytes_ = _integers(arrays, "bytes")
    costs = _required(arrays, "costs")
    if costs.dtype.kind not in "fiu" or costs.shape != bytes_.shape:
        raise refuse(
            "costs",
            f"{costs.dtype} of shape {costs.shape}",
            f"numbers of shape {bytes_.shape}",
            "give one cost per option",
        )
    offsets = _offsets(arrays, bytes_)
    problem = Problem(
        offsets=offsets,
        bytes=bytes_.ravel(),
        costs=costs.astype(np.float64).ravel(),
        rows=_rows(arrays, bytes_.size),
    )
    budget = _required(arrays, "budget")
    if budget.dtype.kind not in "iu":
        raise refuse("budget", str(budget.dtype), "one integer", "write bytes as integers")
    group_names = _names(arrays, "group_names", problem.groups)
    _check_unique(group_names, "group_names")
    return NamedProblem(
        whole(budget.item() if budget.size == 1 else budget.tolist(), "budget"),
        problem,
        group_names or [str(index) for index in range(problem.groups)],
        _names(arrays, "option_names", problem.options),
    )


def _load(data: bytes) -> Mapping[str, NDArray[np.generic]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_size(sum(member.file_size for member in archive.infolist()))
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            members = {name: arrays[name] for name in arrays.files}
    except InvalidRequestError:
        raise
    except _UNREADABLE as error:
        found = f"{type(error).__name__}: {error}"
        raise refuse(
            "problem", found, "an .npz file of plain arrays", "write it with numpy.savez"
        ) from error
    for name, member in members.items():
        if not isinstance(member, np.ndarray):  # NumPy hands on as bytes what is no array
            raise refuse(name, "a member that is no array", "an array", "use numpy.savez")
    return members


def _check_size(nbytes: int) -> None:
    if nbytes > MAX_PROBLEM_BYTES:
        raise refuse(
            "problem",
            f"{nbytes} bytes of arrays",
            f"at most {MAX_PROBLEM_BYTES}",
            f"{MAX_OPTIONS} options are the limit",
        )


def _required(arrays: Mapping[str, NDArray[np.generic]], name: str) -> NDArray[np.generic]:
    if name not in arrays:
        raise refuse(
            "problem",
            f"arrays {', '.join(sorted(arrays)) or 'none'}",
            f"an array {name!r}",
            "see docs/solve.md",
        )
    return arrays[name]


def _integers(arrays: Mapping[str, NDArray[np.generic]], name: str) -> Integers:
    array = _required(arrays, name)
    if array.dtype.kind not in "iu" or array.size == 0:
        raise refuse(name, f"{array.dtype} of shape {array.shape}", "integers", "store it as int64")
    if array.dtype.kind == "u" and int(array.max()) >= MAX_TOTAL:
        raise refuse(name, str(array.max()), f"less than {MAX_TOTAL}", "count in a larger unit")
    return array.astype(np.int64)


def _offsets(arrays: Mapping[str, NDArray[np.generic]], bytes_: Integers) -> Integers:
    matrix_axes = 2
    if bytes_.ndim == matrix_axes:
        groups, width = bytes_.shape
        return np.arange(0, bytes_.size + width, width, dtype=np.int64)[: groups + 1]
    offsets = _integers(arrays, "offsets")
    wrong = offsets.ndim != 1 or bytes_.ndim != 1 or offsets[0] != 0 or offsets[-1] != bytes_.size
    if wrong:
        raise refuse(
            "offsets",
            f"shape {offsets.shape} from {offsets.flat[0]} to {offsets.flat[-1]}",
            f"one axis from 0 to the number of options, {bytes_.size}",
            "give groups + 1 rising offsets, or bytes as a matrix",
        )
    return offsets


def _rows(arrays: Mapping[str, NDArray[np.generic]], options: int) -> tuple[Row, ...]:
    if "row_limits" not in arrays:
        return ()
    limits = _integers(arrays, "row_limits").ravel()
    weights = _integers(arrays, "row_weights")
    if weights.size != limits.size * options:
        raise refuse(
            "row_weights",
            f"shape {weights.shape}",
            f"{limits.size} rows of {options} weights",
            "give one weight per row and option",
        )
    names = _names(arrays, "row_names", limits.size) or list(map(str, range(limits.size)))
    return tuple(
        Row(name, whole(limit, f"row {name!r}, limit"), row)
        for name, limit, row in zip(
            names, limits.tolist(), weights.reshape(limits.size, -1), strict=True
        )
    )


def _names(
    arrays: Mapping[str, NDArray[np.generic]], name: str, count: int
) -> Sequence[str] | None:
    if name not in arrays:
        return None
    array = arrays[name]
    if array.dtype.kind != "U" or array.size != count:
        raise refuse(
            name, f"{array.dtype} of shape {array.shape}", f"{count} strings", "name each one"
        )
    return [str(item) for item in array.ravel().tolist()]


def _check_unique(names: Sequence[str] | None, where: str) -> None:
    if names is not None and len(set(names)) < len(names):
        raise refuse(where, "a name twice", "different names", "rename one")
