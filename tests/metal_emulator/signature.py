"""The source that `mx.fast.metal_kernel` generates around a body (mlx 0.32, metal_kernel.cpp).

A test compares it with what MLX itself prints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import mlx.core as mx

from bitbudget.metal_kernels.launch import Launch, TemplateValue

__all__ = ["ATTRIBUTES", "Argument", "Signature", "generate"]

_TYPES = {
    mx.bool_: "bool",
    mx.uint8: "uint8_t",
    mx.uint16: "uint16_t",
    mx.uint32: "uint32_t",
    mx.uint64: "uint64_t",
    mx.int8: "int8_t",
    mx.int16: "int16_t",
    mx.int32: "int32_t",
    mx.int64: "int64_t",
    mx.float16: "float16_t",
    mx.float32: "float",
    mx.bfloat16: "bfloat16_t",
}
_SMALL = 8
"""Inputs of fewer elements are passed as `constant`."""

ATTRIBUTES = {
    "dispatch_quadgroups_per_threadgroup": "uint",
    "dispatch_simdgroups_per_threadgroup": "uint",
    "dispatch_threads_per_threadgroup": "uint3",
    "grid_origin": "uint3",
    "grid_size": "uint3",
    "quadgroup_index_in_threadgroup": "uint",
    "quadgroups_per_threadgroup": "uint",
    "simdgroup_index_in_threadgroup": "uint",
    "simdgroups_per_threadgroup": "uint",
    "thread_execution_width": "uint",
    "thread_index_in_quadgroup": "uint",
    "thread_index_in_simdgroup": "uint",
    "thread_index_in_threadgroup": "uint",
    "thread_position_in_grid": "uint3",
    "thread_position_in_threadgroup": "uint3",
    "threadgroup_position_in_grid": "uint3",
    "threadgroups_per_grid": "uint3",
    "threads_per_grid": "uint3",
    "threads_per_simdgroup": "uint",
    "threads_per_threadgroup": "uint3",
}


@dataclass(frozen=True)
class Argument:
    """A buffer argument: `space` and `type` as declared, passed by reference or as a pointer.

    `kind` is input, output, shape, strides or ndim; `index` counts inputs or outputs.
    """

    kind: str
    index: int
    space: str
    type: str
    by_reference: bool = False


@dataclass(frozen=True)
class Signature:
    """The generated text, the instantiated function's name, and its arguments in order."""

    text: str
    function: str
    buffers: tuple[Argument, ...]
    attributes: tuple[str, ...]


def _kind(value: TemplateValue) -> str:
    if isinstance(value, bool):
        return "bool"
    return "int" if isinstance(value, int) else "typename"


def _text(value: TemplateValue) -> str:
    return str(int(value)) if isinstance(value, int) else _TYPES[value]


def _buffers(launch: Launch, body: str) -> list[Argument]:
    arguments = []
    for index, (name, array) in enumerate(zip(launch.source.inputs, launch.inputs, strict=True)):
        space = "constant" if array.size < _SMALL else "device"
        kind = _TYPES[array.dtype]
        arguments.append(Argument("input", index, f"const {space}", kind, array.ndim == 0))
        if array.ndim == 0:
            continue
        for suffix, type_ in (("shape", "int"), ("strides", "int64_t"), ("ndim", "int")):
            if f"{name}_{suffix}" in body:
                scalar = suffix == "ndim"
                arguments.append(Argument(suffix, index, "const constant", type_, scalar))
    for index, dtype in enumerate(launch.output_dtypes):
        arguments.append(Argument("output", index, "device", _TYPES[dtype]))
    return arguments


def _parameter(launch: Launch, argument: Argument, position: int) -> str:
    name = (launch.source.outputs if argument.kind == "output" else launch.source.inputs)[
        argument.index
    ]
    if argument.kind not in {"input", "output"}:
        name = f"{name}_{argument.kind}"
    sign = "&" if argument.by_reference else "*"
    return f"  {argument.space} {argument.type}{sign} {name} [[buffer({position})]]"


def _function_name(launch: Launch, template: str) -> str:
    name = "custom_kernel_" + launch.source.name
    if template:
        name += "_" + re.sub(r"[<>]", "_", template).replace(", ", "_")[:-1]
    for array in launch.inputs:
        name += "_" + _TYPES[array.dtype]
        name += "s" if array.ndim == 0 else "c" if array.size < _SMALL else ""
    return name + "".join("_" + _TYPES[dtype] for dtype in launch.output_dtypes)


def generate(launch: Launch) -> Signature:
    """Return the source MLX generates for `launch`."""
    body = launch.source.body_text()
    template = ""
    text = launch.source.header_text()
    if launch.template:
        template = "<" + ", ".join(_text(value) for _, value in launch.template) + ">"
        names = ", ".join(f"{_kind(value)} {name}" for name, value in launch.template)
        text += f"template <{names}>\n"
    function = _function_name(launch, template)
    buffers = _buffers(launch, body)
    attributes = tuple(name for name in ATTRIBUTES if name in body)
    parameters = [_parameter(launch, a, position) for position, a in enumerate(buffers)]
    parameters += [f"  {ATTRIBUTES[name]} {name} [[{name}]]" for name in attributes]
    text += f"[[kernel]] void {function}(\n" + ",\n".join(parameters) + ") {\n" + body + "\n}\n"
    if template:
        text += (
            f'\ntemplate [[host_name("{function}")]] [[kernel]] '
            f"decltype({function}{template}) {function}{template};\n"
        )
    return Signature(text, function + template, tuple(buffers), attributes)
