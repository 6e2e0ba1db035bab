"""A weight in one format: codes with the scale and bias of every group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import Format
from bitbudget.workers.encoders.packing import pack
from bitbudget.workers.native.arrays import Array, as_carried

__all__ = ["Coded"]


@dataclass(frozen=True, slots=True)
class Coded:
    """A weight in one format: codes uint8 (out, in), scales and biases float32 (out, groups)."""

    codes: np.ndarray
    scales: np.ndarray
    biases: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """The float32 weight that is stored: scale * code + bias."""
        out, groups = self.scales.shape
        codes = self.codes.reshape(out, groups, -1).astype(np.float32)
        values = codes * self.scales[..., None] + self.biases[..., None]
        result: np.ndarray = values.reshape(out, -1)
        return result

    def arrays(self, format_: Format, dtype: Dtype) -> dict[str, Array]:
        """Return the arrays of an affine `format_` by suffix, as MLX stores them."""
        return {
            "weight": pack(self.codes, format_.bits),
            "scales": as_carried(self.scales, dtype),
            "biases": as_carried(self.biases, dtype),
        }
