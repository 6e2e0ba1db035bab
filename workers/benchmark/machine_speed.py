"""How fast this machine is at what measuring consists of, measured in a second."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import mlx.core as mx
import numpy as np

from bitbudget.app.contract.stored_speed import read_speed, write_speed
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.encoders import Encoder
from bitbudget.app.core.formats import parse_format
from bitbudget.app.core.machine_speed import MachineSpeed
from bitbudget.workers.encoders.registry import encode
from bitbudget.workers.native.threads import default_threads
from bitbudget.workers.running.device import on_gpu

__all__ = ["machine_speed", "measure_machine_speed"]

_ROUNDS: Final = 40
"""Of two milliseconds each: on a busy machine some of them are not interrupted."""
_SIDE: Final = 512
"""Rows and columns of the matrices that are multiplied."""
_CODED: Final = (512, 1024)
_MULTIPLIED: Final = (2048, 1024)
_MULTIPLIED_ROUNDS: Final = 10
_WRITTEN_BYTES: Final = 1 << 25
_FORMAT: Final = parse_format("affine4g64")


def machine_speed(home: Path) -> MachineSpeed:
    """Return the rates that are kept under `home`, measured now if none are."""
    found = read_speed(home)
    if found is None:
        found = measure_machine_speed(home)
        write_speed(home, found)
    return found


def measure_machine_speed(folder: Path) -> MachineSpeed:
    """Return the rates of this machine; `folder` lies on the disk to measure.

    Each is the best of several rounds: what else the machine does is not counted.
    """
    return MachineSpeed(
        2 * _SIDE**3 / _best_s(_product()),
        _CODED[0] * _CODED[1] / _best_s(_coding()),
        _WRITTEN_BYTES / _best_s(_writing(folder), rounds=2),
        threads=default_threads(),
        on_gpu=on_gpu(),
        dense_per_second=_MULTIPLIED[0] * _MULTIPLIED[1] / _best_s(_dense(), _MULTIPLIED_ROUNDS),
        packed_per_second=_MULTIPLIED[0] * _MULTIPLIED[1] / _best_s(_packed(), _MULTIPLIED_ROUNDS),
    )


def _best_s(work: Callable[[], None], rounds: int = _ROUNDS) -> float:
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return max(min(taken), 1e-9)


def _product() -> Callable[[], None]:
    left, right = (mx.random.normal((_SIDE, _SIDE), key=mx.random.key(i)) for i in range(2))
    mx.eval(left, right)
    return lambda: mx.eval(left @ right)


def _decoding() -> tuple[mx.array, mx.array]:
    """Return one row, and the weight of a linear layer that it is multiplied by."""
    row, weight = mx.ones((1, _MULTIPLIED[1]), mx.bfloat16), mx.ones(_MULTIPLIED, mx.bfloat16)
    mx.eval(row, weight)
    return row, weight


def _dense() -> Callable[[], None]:
    row, weight = _decoding()
    return lambda: mx.eval(row @ weight.T)


def _packed() -> Callable[[], None]:
    row, weight = _decoding()
    packed = mx.quantize(weight, group_size=_FORMAT.group_size, bits=_FORMAT.bits)
    mx.eval(*packed)
    return lambda: mx.eval(
        mx.quantized_matmul(row, *packed, group_size=_FORMAT.group_size, bits=_FORMAT.bits)
    )


def _coding() -> Callable[[], None]:
    values = np.random.default_rng(0).standard_normal(_CODED).astype(np.float32)
    weight = (values.view(np.uint32) >> 16).astype(np.uint16)

    def code() -> None:
        encode(weight, Dtype.BF16, _FORMAT, Encoder.CAREFUL)

    return code


def _writing(folder: Path) -> Callable[[], None]:
    data, path = bytes(_WRITTEN_BYTES), folder / f".speed-{os.getpid()}"

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("wb") as file:
                file.write(data)
                os.fsync(file.fileno())
        finally:
            path.unlink(missing_ok=True)

    return write
