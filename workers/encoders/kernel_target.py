"""What the compiled encoders write a weight's codes to: the `Target` of `native/kernels.cpp`."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import SPAN_COLUMNS, Format, Mode
from bitbudget.workers.encoders.coded import Coded
from bitbudget.workers.native.arrays import address, storage_code

__all__ = ["KernelTarget"]

_LAYOUTS: Final = {Mode.AFFINE: 0, Mode.TWO_LEVEL: 1, Mode.ZERO_POINT: 2, Mode.SYMMETRIC: 3}
"""`Layout` in `native/grids.h`."""


class _Target(ctypes.Structure):
    _fields_ = (
        ("width", ctypes.c_longlong),
        ("rows", ctypes.c_longlong),
        *((name, ctypes.c_int) for name in ("bits", "group", "layout", "storage")),
        *((name, ctypes.c_void_p) for name in ("codes", "scales", "biases", "steps", "lows")),
    )


@dataclass(frozen=True, slots=True)
class KernelTarget:
    """Codes (in, rows), scales and biases (groups, rows), and of two-level formats D and M.

    `rows` are those of the weight, padded to whole panels.
    """

    codes: np.ndarray
    scales: np.ndarray
    biases: np.ndarray
    spans: np.ndarray | None
    structure: _Target

    @classmethod
    def new(cls, shape: tuple[int, ...], format_: Format, dtype: Dtype) -> KernelTarget:
        """Return room for a weight of this padded shape (in, rows), column by column."""
        width, rows = shape
        codes = np.empty((width, rows), np.uint8)
        scales = np.empty((width // format_.group_size, rows), np.float32)
        biases = np.empty_like(scales)
        nested = format_.mode is Mode.TWO_LEVEL
        spans = np.empty((2, -(-width // SPAN_COLUMNS), rows), np.float32) if nested else None
        arrays = (codes, scales, biases, *((None, None) if spans is None else spans))
        numbers = (format_.bits, format_.group_size, _LAYOUTS[format_.mode], storage_code(dtype))
        places = (None if array is None else address(array) for array in arrays)
        return cls(codes, scales, biases, spans, _Target(width, rows, *numbers, *places))

    @property
    def reference(self) -> Any:
        """The kernel's argument."""
        return ctypes.byref(self.structure)

    @property
    def values(self) -> np.ndarray:
        """The float32 weight (in, rows) that is coded: scale * code + bias."""
        groups, rows = self.scales.shape
        grid = self.codes.reshape(groups, -1, rows) * self.scales[:, None]
        grid += self.biases[:, None]
        values: np.ndarray = grid.reshape(-1, rows)
        return values

    def coded(self, out: int) -> Coded:
        """Return what is stored of the first `out` rows."""
        own = slice(None, out)
        codes, scales, biases = (
            np.ascontiguousarray(each.T[own]) for each in (self.codes, self.scales, self.biases)
        )
        turned = None if self.spans is None else self.spans.transpose(2, 1, 0)[own]
        return Coded(codes, scales, biases, None if turned is None else turned.copy())
