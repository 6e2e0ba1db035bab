"""Compensated encoders in MLX's affine storage: `gptq`, and `yaqa` which also sees B."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import Format, Mode
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.encoders.coded import Coded
from bitbudget.workers.encoders.compensated import Feedback
from bitbudget.workers.encoders.descent import code_weight
from bitbudget.workers.encoders.order import Order
from bitbudget.workers.encoders.packing import pack
from bitbudget.workers.encoders.quadratic import Term, damped_term
from bitbudget.workers.fisher.statistics import ModuleStatistics

__all__ = ["ModuleEncoder", "Target", "encode_gptq"]


def encode_gptq(
    weight: np.ndarray,
    dtype: Dtype,
    format_: Format,
    second_moment: np.ndarray,
    rows: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return the arrays of an affine `format_` by suffix, as `encode` does.

    Args:
        weight: float32 (..., out, in).
        dtype: What scales and biases are stored in, that of the source weights.
        format_: An affine format whose group divides the input width.
        second_moment: A, (..., in, in); any positive multiple of it gives the same codes.
        rows: B, (..., out, out), makes the encoder two-sided (YAQA); a diagonal has no effect.
    """
    if format_.mode is not Mode.AFFINE:
        raise InvalidRequestError(
            where=f"format {format_}",
            found=format_.mode.value,
            expected="an affine format",
            remedy="encode it with careful",
        )
    lead = weight.shape[:-2]
    arrays = []
    for index in np.ndindex(*lead):
        moment = second_moment[index]
        own = np.ones(weight.shape[-2], np.float32) if rows is None else rows[index]
        target = Target(moment, ((moment, own),), own)
        coded = target.code(np.asarray(weight[index], np.float32), (format_,), dtype)
        arrays.append(_arrays(coded[format_], format_, dtype))
    return {
        suffix: np.stack([part[suffix] for part in arrays]).reshape(*lead, *arrays[0][suffix].shape)
        for suffix in arrays[0]
    }


@dataclass(frozen=True, slots=True)
class Target:
    """What one expert's errors are judged by.

    `moment` is A and `rows` B (or a diagonal) of the feedback pass, `factors` pairs of A and B: the
    objective of the descent that follows it, once damped.
    """

    moment: np.ndarray
    factors: tuple[tuple[np.ndarray, np.ndarray], ...]
    rows: np.ndarray

    @property
    def terms(self) -> tuple[Term, ...]:
        """The objective of the descent: copies, which are not held beside the factoring of A."""
        return tuple(damped_term(*pair) for pair in self.factors)

    def code(
        self,
        weight: np.ndarray,
        formats: Sequence[Format],
        dtype: Dtype,
        *,
        sweeps: int | None = None,
    ) -> dict[Format, Coded]:
        """Return the float32 `weight` (out, in) coded in every affine format.

        `sweeps` of the descent are as many as pay at this width where they are not given.
        """
        order = Order.by_cost(self.moment, self.rows)
        feedback = Feedback.against(order.across(self.moment), order.down(self.rows))
        terms = [order.term(term) for term in self.terms]
        coded = code_weight(order.weight(weight), formats, dtype, feedback, terms, sweeps=sweeps)
        return {f: order.undone(part, f) for f, part in zip(formats, coded, strict=True)}


class ModuleEncoder:
    """`gptq` or `yaqa` with one module's statistics, whose experts share a pooled moment.

    `moment` replaces that of the statistics, which are then those of a part of the module.
    """

    def __init__(
        self, statistics: ModuleStatistics, encoder: Encoder, moment: np.ndarray | None = None
    ) -> None:
        self.statistics, self.encoder = statistics, encoder
        self.moment = statistics.second_moment if moment is None else moment

    def encode(
        self, weight: np.ndarray, dtype: Dtype, format_: Format, index: tuple[int, ...] = ()
    ) -> dict[str, np.ndarray]:
        """Return the arrays of one expert's float32 weight (or of the whole, for `()`)."""
        return _arrays(self.code(weight, dtype, (format_,), index)[format_], format_, dtype)

    def encode_all(
        self,
        weight: np.ndarray,
        dtype: Dtype,
        formats: Sequence[Format],
        index: tuple[int, ...] = (),
        *,
        sweeps: int | None = None,
    ) -> dict[Format, dict[str, np.ndarray]]:
        """Return the arrays of one expert's float32 weight in every format, by suffix."""
        coded = self.code(weight, dtype, formats, index, sweeps=sweeps)
        return {format_: _arrays(part, format_, dtype) for format_, part in coded.items()}

    def code(
        self,
        weight: np.ndarray,
        dtype: Dtype,
        formats: Sequence[Format],
        index: tuple[int, ...],
        *,
        sweeps: int | None = None,
    ) -> dict[Format, Coded]:
        """Return one expert's float32 weight coded in every format.

        `sweeps` of the descent are as many as pay at this width where they are not given.
        """
        target, values = self.target(index, len(weight)), np.asarray(weight, np.float32)
        return target.code(values, formats, dtype, sweeps=sweeps)

    def target(self, index: tuple[int, ...], out: int) -> Target:
        """Return what one expert is judged by.

        `gptq` sees no B; the two uses of an embedding have their own terms.
        A diagonal B of a single use changes nothing, as it weighs rows that do not meet.
        """
        moment = self.moment[index]
        free = np.ones(out, np.float32)
        parts = [term.part(index) for term in self.statistics.terms]
        if self.encoder is not Encoder.YAQA:
            parts = []
        if len(parts) > 1:
            return Target(moment, tuple((part.columns, part.rows) for part in parts), free)
        rows = self.statistics.feedback_rows(index) if parts else free
        rows = rows if rows.ndim > 1 else free
        return Target(moment, ((moment, rows),), rows)


def _arrays(part: Coded, format_: Format, dtype: Dtype) -> dict[str, np.ndarray]:
    return {
        "weight": pack(part.codes, format_.bits),
        "scales": _as_stored(part.scales, dtype),
        "biases": _as_stored(part.biases, dtype),
    }


def _as_stored(values: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Return values that are exact in `dtype` in the type that carries it; bf16 as its bits."""
    if dtype is Dtype.BF16:
        return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(np.float16 if dtype is Dtype.F16 else np.float32)
