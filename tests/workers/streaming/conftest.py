"""Small checkpoints written as real safetensors files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import ALL_FORMATS, Format
from bitbudget.workers.files.headers import TensorRef, read_header
from bitbudget.workers.native.arrays import Array, from_float32
from bitbudget.workers.streaming import TensorTask

WriteCheckpoint = Callable[[Mapping[str, tuple[Dtype, Array]], str], tuple[TensorRef, ...]]


def random_weight(shape: tuple[int, ...], dtype: Dtype = Dtype.BF16, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return from_float32((0.02 * rng.standard_t(5, size=shape)).astype(np.float32), dtype)


def task_of(name: str, *sources: TensorRef, dtype: Dtype = Dtype.BF16) -> TensorTask:
    return TensorTask(name, sources, dtype, legal(sources[0].shape[-1], dtype))


def legal(width: int, dtype: Dtype) -> tuple[Format, ...]:
    return tuple(format_ for format_ in ALL_FORMATS if format_.is_legal(width, dtype))


def write_safetensors(
    path: Path, tensors: Mapping[str, tuple[Dtype, Array]]
) -> tuple[TensorRef, ...]:
    header: dict[str, object] = {}
    position = 0
    for name, (dtype, array) in tensors.items():
        end = position + array.nbytes
        header[name] = {
            "dtype": dtype.value,
            "shape": list(array.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header).encode()
    data = b"".join(array.tobytes() for _, array in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return read_header(path).tensors


@pytest.fixture
def write_checkpoint(tmp_path: Path) -> WriteCheckpoint:
    def write(
        tensors: Mapping[str, tuple[Dtype, Array]], filename: str = "model.safetensors"
    ) -> tuple[TensorRef, ...]:
        return write_safetensors(tmp_path / filename, tensors)

    return write
