"""A weight in one integer format: codes with the scale and bias of every group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import SPAN_COLUMNS, Format, Mode
from bitbudget.workers.encoders.packing import pack
from bitbudget.workers.native.arrays import Array, as_carried

__all__ = ["Coded"]


@dataclass(frozen=True, slots=True)
class Coded:
    """A weight in one format: codes uint8 (out, in), scales and biases float32 (out, groups).

    `spans` float32 (out, spans, 2) are D and M of a two-level format, of which scales and biases
    are multiples.
    """

    codes: np.ndarray
    scales: np.ndarray
    biases: np.ndarray
    spans: np.ndarray | None = None

    @classmethod
    def joined(cls, blocks: Sequence[Coded]) -> Coded:
        """Return blocks of rows as one weight."""
        names = ("codes", "scales", "biases", *(() if blocks[0].spans is None else ("spans",)))
        return cls(*(np.concatenate([getattr(block, n) for block in blocks]) for n in names))

    @property
    def values(self) -> np.ndarray:
        """The float32 weight that is stored: scale * code + bias."""
        out, groups = self.scales.shape
        codes = self.codes.reshape(out, groups, -1).astype(np.float32)
        values = codes * self.scales[..., None] + self.biases[..., None]
        result: np.ndarray = values.reshape(out, -1)
        return result

    def arrays(self, format_: Format, dtype: Dtype) -> dict[str, Array]:
        """Return the arrays of `format_` by suffix, as they are stored."""
        return {
            "weight": pack(self.codes, format_.bits),
            **_STORE[format_.mode](self, format_, dtype),
        }


def _affine(coded: Coded, _format: Format, dtype: Dtype) -> dict[str, Array]:
    return {
        "scales": as_carried(coded.scales, dtype),
        "biases": as_carried(coded.biases, dtype),
    }


def _two_level(coded: Coded, format_: Format, _dtype: Dtype) -> dict[str, Array]:
    spans = coded.spans
    assert spans is not None  # noqa: S101 - the kernels make them for this mode
    number = np.arange(coded.scales.shape[-1]) * format_.group_size // SPAN_COLUMNS
    steps, lows = spans[:, number, 0], spans[:, number, 1]
    scale = np.rint(coded.scales / steps).astype(np.uint8)
    minimum = np.rint(-coded.biases / np.where(lows == 0, 1, lows)).astype(np.uint8)
    return {"scales": scale | minimum << 4, "spans": as_carried(spans, Dtype.BF16)}


def _zero_point(coded: Coded, _format: Format, _dtype: Dtype) -> dict[str, Array]:
    zeros = np.rint(-coded.biases / coded.scales).astype(np.uint8)
    pairs = np.pad(zeros, ((0, 0), (0, zeros.shape[-1] % 2))).reshape(len(zeros), -1, 2)
    return {
        "scales": as_carried(coded.scales, Dtype.BF16),
        "zero_points": np.ascontiguousarray(pairs[..., 0] | pairs[..., 1] << 4),
    }


def _symmetric(coded: Coded, _format: Format, _dtype: Dtype) -> dict[str, Array]:
    return {"scales": as_carried(coded.scales, Dtype.BF16)}


_STORE: Final = {
    Mode.AFFINE: _affine,
    Mode.TWO_LEVEL: _two_level,
    Mode.ZERO_POINT: _zero_point,
    Mode.SYMMETRIC: _symmetric,
}
"""Mode -> the arrays beside the codes."""
