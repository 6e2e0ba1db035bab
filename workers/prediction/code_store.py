"""What an encoder stores of modules, kept on disk until forward passes no longer need it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import Format
from bitbudget.app.core.inventory import Module
from bitbudget.workers.encoders.number_formats import dequantize

__all__ = ["CodeStore"]


class CodeStore:
    """Arrays of modules in formats, one safetensors file each.

    `variant` tells codes of one format apart, such as those fitted to other inputs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[tuple[str, Format, str], Path] = {}
        self._dtypes: dict[str, Dtype] = {}
        self._count = 0

    def holds(self, path: str, format_: Format, variant: str = "") -> bool:
        """Whether the module at `path` was stored in this format."""
        return (path, format_, variant) in self._files

    def put(
        self, module: Module, format_: Format, arrays: Mapping[str, np.ndarray], variant: str = ""
    ) -> None:
        """Store a module's arrays by suffix."""
        self._dtypes[module.path] = module.dtype
        self._count += 1
        file = self.folder / f"{self._count:06d}.safetensors"
        mx.save_safetensors(str(file), {name: mx.array(a) for name, a in arrays.items()})
        self._files[module.path, format_, variant] = file

    def weight(self, path: str, format_: Format, variant: str = "") -> mx.array:
        """Return the float32 weight that the stored arrays stand for."""
        found = mx.load(str(self._files[path, format_, variant]))
        assert isinstance(found, dict)  # noqa: S101 - what MLX reads of a safetensors file
        arrays = {suffix: np.array(array) for suffix, array in found.items()}
        return mx.array(dequantize(arrays, format_, self._dtypes[path]))

    def drop(self, variant: str) -> None:
        """Delete what was stored of one variant."""
        for key in [key for key in self._files if key[2] == variant]:
            self._files.pop(key).unlink(missing_ok=True)
