"""The element type that a checkpoint is written in: what `mlx_lm.convert` makes of the source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import mlx.core as mx
from mlx import nn

from bitbudget.app.core.dtypes import Dtype
from bitbudget.workers.models.headers import SourceFile, TensorRef
from bitbudget.workers.models.language_part import text_part
from bitbudget.workers.models.sanitize import Sanitized

__all__ = ["in_dtype", "target_dtype", "wide_notes"]

_STATED: Final = {"bfloat16": Dtype.BF16, "float16": Dtype.F16, "float32": Dtype.F32}
_MLX: Final = {Dtype.BF16: mx.bfloat16, Dtype.F16: mx.float16, Dtype.F32: mx.float32}
_FLOATS: Final = (Dtype.F64, *_MLX)


def target_dtype(config: Mapping[str, Any], tensors: Iterable[TensorRef]) -> mx.Dtype | None:
    """Return the type that weights are cast to, None where they stay as they are.

    The configuration names it (`torch_dtype`, or `dtype` since transformers 5, as
    `mlx_lm.convert` reads them). A model in which some weights have that type already was mixed
    on purpose (fp32 routers or norms): nothing is cast then. MLX has no float64 on a GPU, so that
    those become float32 where nothing is said.
    """
    stored = {tensor.dtype for tensor in tensors if tensor.dtype in _FLOATS}
    inner = text_part(config)
    stated = config.get("torch_dtype") or inner.get("dtype") or inner.get("torch_dtype")
    wanted = _STATED.get(str(stated).removeprefix("torch."))
    if wanted is None and Dtype.F64 in stored:
        wanted = Dtype.F32
    if wanted is None or not stored or (wanted in stored and Dtype.F64 not in stored):
        return None
    return _MLX[wanted]


def in_dtype(known: Sanitized, dtype: mx.Dtype | None, model: nn.Module) -> Sanitized:
    """Cast floating-point weights lazily, but for those that the class keeps as they are."""
    if dtype is None:
        return known
    casts = getattr(model, "cast_predicate", lambda _: True)
    for name, array in known.weights.items():
        if not casts(name) or array.dtype == dtype or not mx.issubdtype(array.dtype, mx.floating):
            continue
        known.weights[name] = array.astype(dtype)
        known.origins[name] = None
        if name in known.stacked:
            known.stacked[name] = [part.astype(dtype) for part in known.stacked[name]]
    return known


def wide_notes(files: Iterable[SourceFile]) -> tuple[str, ...]:
    """Return what to tell of float64 tensors, which MLX has no use for."""
    names = [t.name for file in files for t in file.tensors if t.dtype is Dtype.F64]
    if not names:
        return ()
    return (f"{len(names)} tensors are float64, such as {names[0]}: they are cast",)
