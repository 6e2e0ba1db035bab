"""The encoder `careful`: the scale and bias with the least squared error of each group."""

from __future__ import annotations

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import Format
from bitbudget.workers.encoders.number_formats import store
from bitbudget.workers.native.arrays import Array

__all__ = ["encode_careful"]


def encode_careful(weight: Array, dtype: Dtype, format_: Format) -> dict[str, Array]:
    """Return the arrays that hold `weight` (..., out, in) with the least error, by suffix.

    Of `affine` scale and bias of each group come from alternating least squares, of small floats
    the scale is the best of the nearest and its neighbours.
    """
    return store(weight, dtype, format_, careful=True)
