"""What has to be rewritten in Metal source before clang's OpenCL front end takes it."""

from __future__ import annotations

import itertools
import re
import zlib

__all__ = ["to_opencl"]

_THREADGROUP_VARIABLE = re.compile(
    r"(?<=[;{}\n])(?P<space>\s*)threadgroup\s+"
    r"(?P<type>(?:alignas\([^)]*\)\s*)?[\w:]+(?:<[^;<>]*>)?)\s+"
    r"(?P<name>\w+)\s*(?P<extents>(?:\[[^;]*?\])*)\s*;"
)
_FUNCTION_CONSTANT = re.compile(
    r"constant\s+(\w+)\s+(\w+)\s*\[\[\s*function_constant\((\d+)\)\s*\]\]\s*;"
)
_HOST_NAME = re.compile(r"template\s*\[\[\s*host_name\([^\]]*\)\s*\]\]\s*\[\[kernel\]\]")
_CONSTRUCTOR_INITIALISERS = re.compile(r"\)\s+thread\s*(?=:(?!:))")
_CONSTRUCTOR_BODY = re.compile(
    r"((?:METAL_FUNC|constexpr|explicit|inline|[;{}])\s+\w+\s*\([^()]*\))\s+thread\s*(?=\{)"
)


def to_opencl(metal: str, tag: str = "") -> str:
    """Return `metal` with threadgroup variables, function constants and constructors rewritten.

    A threadgroup variable of a function that is not an OpenCL kernel becomes a reference into the
    emulator's memory, keyed by `tag`, its place and its name. Function constant N becomes the
    macro EMU_CONSTANT_N. clang 19 finds no constructor qualified `thread`: the qualifier goes.
    """
    count = itertools.count()

    def variable(match: re.Match[str]) -> str:
        key = zlib.crc32(f"{tag}:{next(count)}:{match['name']}".encode())
        alias = f"emu_type_{match['name']}"
        return (
            f"{match['space']}typedef {match['type']} {alias} {match['extents']}; "
            f"threadgroup {alias}& {match['name']} = emu_threadgroup_variable<{alias}>({key}u);"
        )

    text = _THREADGROUP_VARIABLE.sub(variable, metal)
    text = _FUNCTION_CONSTANT.sub(r"constant \1 \2 = EMU_CONSTANT_\3;", text)
    text = _HOST_NAME.sub("template", text)
    text = _CONSTRUCTOR_INITIALISERS.sub(") ", text)
    return _CONSTRUCTOR_BODY.sub(r"\1 ", text)
