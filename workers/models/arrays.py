"""Arrays of a checkpoint in MLX and in NumPy: their element types, and how they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.files.headers import TensorRef, read_header

__all__ = [
    "MLX_DTYPES",
    "array_from",
    "dtype_of",
    "load_files",
    "numpy_of",
    "read_tensor",
    "slices",
]

MLX_DTYPES: Final[dict[Dtype, mx.Dtype]] = {
    Dtype.F64: mx.float32,
    Dtype.F32: mx.float32,
    Dtype.F16: mx.float16,
    Dtype.BF16: mx.bfloat16,
    Dtype.F8_E4M3: mx.uint8,
    Dtype.F8_E5M2: mx.uint8,
    Dtype.F8_E8M0: mx.uint8,
    Dtype.I64: mx.int64,
    Dtype.I32: mx.int32,
    Dtype.I16: mx.int16,
    Dtype.I8: mx.int8,
    Dtype.U64: mx.uint64,
    Dtype.U32: mx.uint32,
    Dtype.U16: mx.uint16,
    Dtype.U8: mx.uint8,
    Dtype.BOOL: mx.bool_,
}
"""What is loaded of each element type: 8-bit floats as their bits, float64 as float32."""

_STORED: Final = {
    mlx: dtype
    for dtype, mlx in MLX_DTYPES.items()
    if dtype not in (Dtype.F64, Dtype.F8_E4M3, Dtype.F8_E5M2, Dtype.F8_E8M0)
}

_NUMPY: Final[dict[Dtype, type[np.generic]]] = {
    Dtype.F32: np.float32,
    Dtype.F16: np.float16,
    Dtype.BF16: np.uint16,
}


def dtype_of(array: mx.array) -> Dtype:
    """Return the element type that `array` is stored in."""
    return _STORED[array.dtype]


def numpy_of(array: mx.array) -> npt.NDArray[Any]:
    """Evaluate `array` and return it in NumPy, bf16 as its bits in uint16."""
    if array.dtype == mx.bfloat16:
        array = array.view(mx.uint16)
    return np.array(array)


def slices(array: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield the matrices of a stack of any depth; a matrix or vector is one slice."""
    if array.ndim <= 2:  # noqa: PLR2004, a matrix
        yield array
        return
    for part in array:
        yield from slices(part)


def read_tensor(folder: Path, source: TensorRef) -> npt.NDArray[Any]:
    """Read one tensor: f32 and f16 as such, bf16 as its bits in uint16, other types as bytes."""
    kind = _NUMPY.get(source.dtype, np.uint8)
    count = source.nbytes // np.dtype(kind).itemsize
    array = np.fromfile(folder / source.file, dtype=kind, count=count, offset=source.offset)
    if array.size != count:
        raise InvalidModelError(
            where=f"{source.file}: {source.name}",
            found=f"{array.nbytes} bytes",
            expected=f"{source.nbytes}: the file changed while it was read",
            remedy="start again when the model folder is complete",
        )
    return array.reshape(source.shape) if source.dtype in _NUMPY else array


def array_from(data: bytes, source: TensorRef) -> mx.array | None:
    """Return the bytes of one tensor as an array, None where NumPy has no such floats."""
    if source.dtype not in _NUMPY:
        return None
    array = mx.array(np.frombuffer(data, _NUMPY[source.dtype]).reshape(source.shape))
    return array.view(mx.bfloat16) if source.dtype is Dtype.BF16 else array


def _narrowed(path: Path) -> dict[str, mx.array]:
    """Read a file with float64 tensors, which MLX does not load, as float32."""
    arrays: dict[str, mx.array] = {}
    for tensor in read_header(path).tensors:
        raw = read_tensor(path.parent, tensor)
        if tensor.dtype is Dtype.F64:
            arrays[tensor.name] = mx.array(raw.view(np.float64).reshape(tensor.shape).astype("f4"))
        elif tensor.dtype in _NUMPY:
            array = mx.array(raw)
            arrays[tensor.name] = array.view(mx.bfloat16) if tensor.dtype is Dtype.BF16 else array
        else:
            array = mx.array(raw).view(MLX_DTYPES[tensor.dtype])
            arrays[tensor.name] = array.reshape(tensor.shape)
    return arrays


def load_files(paths: Sequence[Path]) -> dict[str, mx.array]:
    """Return the arrays of all files by name, lazily; InvalidModelError when MLX refuses one."""
    arrays: dict[str, mx.array] = {}
    for path in paths:
        if any(tensor.dtype is Dtype.F64 for tensor in read_header(path).tensors):
            arrays |= _narrowed(path)
            continue
        try:
            loaded = mx.load(str(path))
        except (RuntimeError, ValueError) as error:
            raise InvalidModelError(
                where=path.name,
                found=str(error)[:200],
                expected="a safetensors file that MLX reads",
                remedy="check the file; a whole one stock mlx-lm cannot load either",
            ) from error
        arrays |= loaded if isinstance(loaded, dict) else {}
    return arrays
