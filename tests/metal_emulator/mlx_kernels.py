"""MLX's own kernels, from the headers in the installed wheel, on the emulator."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tests.metal_emulator.emulate import attribute_value
from tests.metal_emulator.machine import Array, Buffer, launch, released
from tests.metal_emulator.toolchain import compile_kernel, include_folders

__all__ = ["MlxKernel"]


def _split(parameters: str) -> list[str]:
    parts, depth, part = [], 0, ""
    for character in parameters:
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += character
    return [" ".join(text.split()) for text in (*parts, part)]


def _parameters(text: str, function: str) -> list[str]:
    match = re.search(rf"\[\[kernel\]\]\s*void\s+{function}\s*\(", text)
    if match is None:
        raise LookupError(f"the mlx headers have no kernel {function}")
    end, depth = match.end(), 1
    while depth:
        depth += (text[end] == "(") - (text[end] == ")")
        end += 1
    return _split(text[match.end() : end - 1])


@dataclass(frozen=True)
class MlxKernel:
    """A kernel template of MLX, instantiated: `T` names the element type in its arguments."""

    headers: tuple[str, ...]
    function: str
    template: str
    element: str
    prelude: str = ""

    @lru_cache  # noqa: B019 - kernels are few and live as long as the tests
    def _source(self) -> str:
        folder = include_folders()[1] / "mlx/backend/metal/kernels"
        text = "".join((folder / name).read_text(encoding="utf-8") for name in self.headers)
        arguments, position = [], 0
        for parameter in _parameters(text, self.function):
            attribute = re.search(r"\[\[\s*([a-z_]+)\s*\]\]", parameter)
            if attribute:
                arguments.append(attribute_value(attribute[1], parameter.split()[0]))
                continue
            declared = re.fullmatch(
                r"(.*?)([*&])\s*\w+", re.sub(r"\[\[.*?\]\]", "", parameter).strip()
            )
            if declared is None:
                raise LookupError(f"cannot read parameter '{parameter}' of {self.function}")
            pointer = f"({declared[1]}*)buffers[{position}]"
            arguments.append(("*" if declared[2] == "&" else "") + pointer)
            position += 1
        includes = "".join(f'#include "mlx/backend/metal/kernels/{h}"\n' for h in self.headers)
        return (
            f'#include "mlx/backend/metal/kernels/utils.h"\n{self.prelude}\n{includes}'
            f"typedef {self.element} T;\n"
            'extern "C" void emu_entry(const thread ulong* buffers, thread EmuLane* lane) {\n'
            f"  {self.function}<{self.template}>({', '.join(arguments)});\n}}\n"
        )

    def run(
        self,
        arrays: Sequence[Array],
        outputs: Sequence[int],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
    ) -> list[Array]:
        """Run on copies of `arrays`, one per buffer; return those whose indices are `outputs`."""
        constants = tuple(f"-DEMU_CONSTANT_{number}=0" for number in (200, 201, 202))
        library = compile_kernel(self._source(), constants)
        with released([]) as buffers:
            buffers.extend(Buffer.holding(array) for array in arrays)
            launch(library, buffers, grid, threadgroup)
            return [
                buffers[index].array(arrays[index].shape, arrays[index].dtype).copy()
                for index in outputs
            ]
