"""The element type that a checkpoint is written in: what `mlx_lm.convert` makes of the source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from bitbudget.app.core.dtypes import Dtype
from bitbudget.workers.files.headers import SourceFile, TensorRef
from bitbudget.workers.files.language_part import text_part

__all__ = ["FLOATS", "wide_notes", "written_type"]

_STATED: Final = {"bfloat16": Dtype.BF16, "float16": Dtype.F16, "float32": Dtype.F32}
FLOATS: Final = (Dtype.F64, *_STATED.values())
"""Types that are cast to the one that is written."""


def written_type(config: Mapping[str, Any], tensors: Iterable[TensorRef]) -> Dtype | None:
    """Return the type that weights are cast to, None where they stay as they are.

    The configuration names it (`torch_dtype`, or `dtype` since transformers 5, as
    `mlx_lm.convert` reads them). A model in which some weights have that type already was mixed
    on purpose (fp32 routers or norms): nothing is cast then. MLX has no float64 on a GPU, so that
    those become float32 where nothing is said.
    """
    stored = {tensor.dtype for tensor in tensors if tensor.dtype in FLOATS}
    inner = text_part(config)
    stated = config.get("torch_dtype") or inner.get("dtype") or inner.get("torch_dtype")
    wanted = _STATED.get(str(stated).removeprefix("torch."))
    if wanted is None and Dtype.F64 in stored:
        wanted = Dtype.F32
    if wanted is None or not stored or (wanted in stored and Dtype.F64 not in stored):
        return None
    return wanted


def wide_notes(files: Iterable[SourceFile]) -> tuple[str, ...]:
    """Return what to tell of float64 tensors, which MLX has no use for."""
    names = [t.name for file in files for t in file.tensors if t.dtype is Dtype.F64]
    if not names:
        return ()
    return (f"{len(names)} tensors are float64, such as {names[0]}: they are cast",)
