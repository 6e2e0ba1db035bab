"""The objective that error feedback and coordinate descent lower for one expert's weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import Format, Mode
from bitbudget.workers.encoders.coded import Coded
from bitbudget.workers.encoders.compensated import Feedback
from bitbudget.workers.encoders.descent import code_weight
from bitbudget.workers.encoders.order import Order
from bitbudget.workers.encoders.quadratic import Term, damped_term

__all__ = ["Target"]


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
        """Return the float32 `weight` (out, in) coded in every integer format.

        `sweeps` of the descent are as many as pay at this width where they are not given.
        """
        coded: dict[Format, Coded] = {}
        for spans in (False, True):
            own = [f for f in formats if (f.mode is Mode.TWO_LEVEL) is spans]
            if own:
                order = Order.by_cost(self.moment, self.rows, spans=spans)
                coded |= self._in_order(order, weight, own, dtype, sweeps=sweeps)
        return {format_: coded[format_] for format_ in formats}

    def _in_order(
        self,
        order: Order,
        weight: np.ndarray,
        formats: Sequence[Format],
        dtype: Dtype,
        *,
        sweeps: int | None,
    ) -> dict[Format, Coded]:
        feedback = Feedback.against(order.across(self.moment), order.down(self.rows))
        terms = [order.term(term) for term in self.terms]
        coded = code_weight(order.weight(weight), formats, dtype, feedback, terms, sweeps=sweeps)
        return {f: order.undone(part, f) for f, part in zip(formats, coded, strict=True)}
