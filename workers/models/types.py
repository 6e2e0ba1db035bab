"""Weights cast to the element type that a checkpoint is written in."""

from __future__ import annotations

from typing import Final

import mlx.core as mx
from mlx import nn

from bitbudget.app.core.dtypes import Dtype
from bitbudget.workers.models.sanitize import Sanitized

__all__ = ["in_dtype"]

_MLX: Final = {Dtype.BF16: mx.bfloat16, Dtype.F16: mx.float16, Dtype.F32: mx.float32}


def in_dtype(known: Sanitized, written: Dtype | None, model: nn.Module) -> Sanitized:
    """Cast floating-point weights lazily, but for those that the class keeps as they are."""
    if written is None:
        return known
    dtype = _MLX[written]
    casts = getattr(model, "cast_predicate", lambda _: True)
    for name, array in known.weights.items():
        if not casts(name) or array.dtype == dtype or not mx.issubdtype(array.dtype, mx.floating):
            continue
        known.weights[name] = array.astype(dtype)
        known.origins[name] = None
        if name in known.stacked:
            known.stacked[name] = [part.astype(dtype) for part in known.stacked[name]]
    return known
