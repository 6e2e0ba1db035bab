"""The encoder `minmax`: the range of each group, as `mx.quantize` and mlx-lm do."""

from __future__ import annotations

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import Format
from bitbudget.workers.encoders.number_formats import store
from bitbudget.workers.native.arrays import Array

__all__ = ["encode_minmax"]


def encode_minmax(weight: Array, dtype: Dtype, format_: Format) -> dict[str, Array]:
    """Return the arrays of `mx.quantize` that hold `weight` (..., out, in), by suffix."""
    return store(weight, dtype, format_, careful=False)
