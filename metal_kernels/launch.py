"""A Metal kernel's source, and one launch of it, as values.

A launch is computed apart from running it, so that the same value goes to `mx.fast.metal_kernel` on
a Mac and to the emulator of the tests elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import mlx.core as mx

__all__ = ["Launch", "Source", "TemplateValue", "read_metal"]

TemplateValue = int | bool | mx.Dtype
_FOLDER = Path(__file__).parent


@lru_cache
def read_metal(name: str) -> str:
    """Return the text of the `.metal` file `name` beside this module."""
    return (_FOLDER / f"{name}.metal").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Source:
    """What `mx.fast.metal_kernel` compiles: a body without a signature, and a header.

    `headers` and `body` are names of `.metal` files of this package.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    body: str
    headers: tuple[str, ...] = ()

    def body_text(self) -> str:
        """The function body in Metal."""
        return read_metal(self.body)

    def header_text(self) -> str:
        """What stands before the function."""
        return "".join(read_metal(name) for name in self.headers)


@lru_cache
def _compiled(source: Source) -> Any:
    return mx.fast.metal_kernel(
        name=source.name,
        input_names=list(source.inputs),
        output_names=list(source.outputs),
        source=source.body_text(),
        header=source.header_text(),
        ensure_row_contiguous=True,
    )


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch. `grid` and `threadgroup` count threads, as Metal's dispatchThreads does."""

    source: Source
    inputs: tuple[mx.array, ...]
    template: tuple[tuple[str, TemplateValue], ...]
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    output_shapes: tuple[tuple[int, ...], ...]
    output_dtypes: tuple[mx.Dtype, ...]

    def run(self) -> list[mx.array]:
        """Run on the GPU; needs Metal."""
        outputs: list[mx.array] = _compiled(self.source)(
            inputs=list(self.inputs),
            template=list(self.template),
            grid=self.grid,
            threadgroup=self.threadgroup,
            output_shapes=list(self.output_shapes),
            output_dtypes=list(self.output_dtypes),
        )
        return outputs
