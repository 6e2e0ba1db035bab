"""Codes of a quantized module as NumPy sees them, and moved by the encoder's descent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import mlx.core as mx
import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import Format
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.encoders.coded import Coded
from bitbudget.workers.encoders.compensated import Feedback
from bitbudget.workers.encoders.descent import DescentProblem
from bitbudget.workers.encoders.kernel_target import KernelTarget
from bitbudget.workers.encoders.quadratic import Term
from bitbudget.workers.encoders.registry import ModuleEncoder
from bitbudget.workers.fisher.statistics import ModuleStatistics
from bitbudget.workers.recovery.stored import AffineStored, Stored

__all__ = ["DTYPES", "changed_codes", "flat_codes", "move_codes", "terms_of", "with_codes"]

DTYPES: Final = {mx.bfloat16: Dtype.BF16, mx.float16: Dtype.F16, mx.float32: Dtype.F32}


def move_codes(
    start: Coded,
    goal: np.ndarray,
    format_: Format,
    dtype: Dtype,
    terms: Sequence[Term],
    *,
    sweeps: int,
) -> Coded:
    """Return `start` after descent towards `goal`: a code moves only where the objective falls.

    Args:
        start: A weight coded in `format_`, without spans.
        goal: float32 (out, in), which the objective's errors are differences to.
        format_: Of integer codes.
        dtype: What scales and biases are stored in.
        terms: One or two, damped so that their curvature is positive.
        sweeps: Of the descent.
    """
    empty = Feedback(np.empty((0, 0), np.float32), np.empty(0, np.float32), None)
    problem = DescentProblem(goal, dtype, empty, terms)
    target = KernelTarget.new(problem.weight.shape, format_, dtype)
    for to, given, padding in (
        (target.codes, start.codes, 0),
        (target.scales, start.scales, 1),
        (target.biases, start.biases, 0),
    ):
        to[:, : problem.out] = given.T
        to[:, problem.out :] = padding
    problem.descend(target, sweeps, np.empty_like(problem.weight))
    return target.coded(problem.out)


def terms_of(known: ModuleStatistics, index: tuple[int, ...], out: int) -> tuple[Term, ...]:
    """Return the Fisher terms of a module, or of its expert `index`, in nats per token."""
    terms = ModuleEncoder(known, Encoder.YAQA).target(index, out).terms
    if len(terms) > 1:
        return terms
    # The encoders need no unit; A of trace one gives nats.
    return (Term(terms[0].columns / np.trace(terms[0].columns), terms[0].rows),)


def flat_codes(own: AffineStored) -> np.ndarray:
    """Return a copy of the codes, uint8 (..., out, in)."""
    codes = np.array(own.codes)
    return codes.reshape(*codes.shape[:-2], -1)


def with_codes(own: AffineStored, codes: np.ndarray) -> AffineStored:
    """Return `own` with other codes (..., out, in)."""
    return replace(own, codes=mx.array(codes.reshape(own.codes.shape)))


def changed_codes(before: Mapping[str, Stored], after: Mapping[str, Stored]) -> int:
    """Return how many codes differ."""
    return sum(int((own.codes != before[path].codes).sum()) for path, own in after.items())
