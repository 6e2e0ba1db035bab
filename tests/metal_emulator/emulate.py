"""Running a launch on the emulator instead of a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from bitbudget.metal_kernels.launch import Launch
from tests.metal_emulator.machine import Array, Buffer, Statistics, launch, released
from tests.metal_emulator.signature import ATTRIBUTES, Argument, Signature, generate
from tests.metal_emulator.source import to_opencl
from tests.metal_emulator.toolchain import COUNTING_FLAGS, PRELUDE, compile_kernel

__all__ = [
    "ORDERS",
    "Emulation",
    "Traffic",
    "argument_bytes",
    "attribute_value",
    "emulate",
    "kernel_source",
]

ORDERS = (0, 1, 2, 3, 4, 5)
"""Ascending, descending, and four random orders of the lanes."""

_VECTORS = {
    "dispatch_threads_per_threadgroup": "dispatch_threads",
    "grid_size": "threads_per_grid",
    "thread_position_in_grid": "position_in_grid",
    "thread_position_in_threadgroup": "position_in_threadgroup",
    "threadgroup_position_in_grid": "threadgroup_position",
    "threadgroups_per_grid": "threadgroups",
    "threads_per_grid": "threads_per_grid",
    "threads_per_threadgroup": "threads_per_threadgroup",
}
_SCALARS = {
    "dispatch_simdgroups_per_threadgroup": "lane->dispatch_simdgroups",
    "quadgroup_index_in_threadgroup": "lane->index / 4",
    "simdgroup_index_in_threadgroup": "lane->simdgroup",
    "simdgroups_per_threadgroup": "lane->simdgroups",
    "thread_execution_width": "32u",
    "thread_index_in_quadgroup": "lane->index % 4",
    "thread_index_in_simdgroup": "lane->lane",
    "thread_index_in_threadgroup": "lane->index",
    "threads_per_simdgroup": "32u",
}


@dataclass(frozen=True)
class Traffic:
    """Bytes a launch moved between device memory and its threads, per input and per output."""

    read: tuple[int, ...]
    written: tuple[int, ...]

    @property
    def total(self) -> int:
        """All bytes, both ways."""
        return sum(self.read) + sum(self.written)


@dataclass(frozen=True)
class Emulation:
    """Outputs of a launch with what it did."""

    outputs: tuple[mx.array, ...]
    statistics: Statistics
    traffic: Traffic


def attribute_value(name: str, type_: str) -> str:
    """Return the expression for a thread attribute of Metal type `type_`."""
    if name in _SCALARS:
        return _SCALARS[name]
    if name == "grid_origin":
        return "(uint3)(0u)"
    field = f"lane->{_VECTORS[name]}"
    if type_ == "uint":
        return f"{field}[0]"
    return f"((uint3){{{field}[0], {field}[1], {field}[2]}})" + (".xy" if type_ == "uint2" else "")


def kernel_source(signature: Signature) -> str:
    """Return the OpenCL text whose `emu_entry` calls the kernel for one lane."""
    arguments = []
    for position, argument in enumerate(signature.buffers):
        pointer = f"({argument.space} {argument.type}*)buffers[{position}]"
        arguments.append("*" * argument.by_reference + pointer)
    arguments += [attribute_value(name, ATTRIBUTES[name]) for name in signature.attributes]
    call = f"{signature.function}({', '.join(arguments)});"
    return (
        f"{PRELUDE}"
        f'#line 1 "kernel.metal"\n{to_opencl(signature.text)}\n'
        'extern "C" void emu_entry(const thread ulong* buffers, thread EmuLane* lane) {\n'
        f"  {call}\n}}\n"
    )


def to_numpy(array: mx.array) -> Array:
    """Return a copy; bfloat16 as the uint16 of its bits."""
    if array.dtype == mx.bfloat16:
        return np.array(array.view(mx.uint16))
    return np.array(array)


def to_mlx(array: Array, dtype: mx.Dtype) -> mx.array:
    """Return an MLX array of `dtype` from what `to_numpy` gives."""
    if dtype == mx.bfloat16:
        return mx.array(array).view(mx.bfloat16)
    return mx.array(array)


def _numpy_dtype(dtype: mx.Dtype) -> Any:
    return to_numpy(mx.zeros((1,), dtype=dtype)).dtype


def _contents(launch_: Launch, argument: Argument) -> Array:
    array = launch_.inputs[argument.index]
    if argument.kind == "shape":
        return np.array(array.shape, np.int32)
    if argument.kind == "ndim":
        return np.array(array.ndim, np.int32)
    contents = np.ascontiguousarray(to_numpy(array)) if array.ndim else to_numpy(array)
    if argument.kind == "strides":
        return np.array([stride // contents.itemsize for stride in contents.strides], np.int64)
    return contents


def _output_size(launch_: Launch, argument: Argument) -> tuple[int, int]:
    itemsize = _numpy_dtype(launch_.output_dtypes[argument.index]).itemsize
    count = int(np.prod(launch_.output_shapes[argument.index], dtype=np.int64))
    return count * itemsize, itemsize


def _buffer(launch_: Launch, argument: Argument) -> Buffer:
    if argument.kind == "output":
        return Buffer(*_output_size(launch_, argument))
    return Buffer.holding(_contents(launch_, argument))


def argument_bytes(launch_: Launch, argument: Argument) -> bytes:
    """Return the contents of a buffer before the launch; outputs are 0xff bytes."""
    if argument.kind == "output":
        return b"\xff" * _output_size(launch_, argument)[0]
    return _contents(launch_, argument).tobytes()


def compiled(launch_: Launch, flags: tuple[str, ...] = ()) -> Path:
    """Compile the source MLX would generate for `launch_`."""
    return compile_kernel(kernel_source(generate(launch_)), flags)


def emulate(
    launch_: Launch, *, order: int = 0, flags: tuple[str, ...] = (), count: bool = False
) -> Emulation:
    """Run `launch_`. With `count` its loads and stores of device memory are counted.

    EmulatorError for what Metal leaves undefined, CompileError for source that clang refuses.
    """
    library = compiled(launch_, (*flags, *(COUNTING_FLAGS if count else ())))
    arguments = generate(launch_).buffers
    with released([]) as buffers:
        buffers.extend(_buffer(launch_, argument) for argument in arguments)
        statistics = launch(library, buffers, launch_.grid, launch_.threadgroup, order)
        outputs = [b for a, b in zip(arguments, buffers, strict=True) if a.kind == "output"]
        inputs = [b for a, b in zip(arguments, buffers, strict=True) if a.kind == "input"]
        arrays = tuple(
            to_mlx(buffer.array(shape, _numpy_dtype(dtype)).copy(), dtype)
            for buffer, shape, dtype in zip(
                outputs, launch_.output_shapes, launch_.output_dtypes, strict=True
            )
        )
        read = tuple(buffer.bytes_read for buffer in inputs)
        written = tuple(buffer.bytes_written for buffer in outputs)
        return Emulation(arrays, statistics, Traffic(read, written))
