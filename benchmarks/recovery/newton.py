"""A Newton step on the codes of a checkpoint, from the gradient of its KL.

Near quantized weights the KL of a change D of one of them is <G, D> + 1/2 tr(B D A D^T), with G its
gradient there and A, B the Kronecker factors of the Fisher information. Its minimum is -B^-1 G
A^-1; codes go towards a share of that by descent from where they are. G is partly noise: the share
is what was best between two halves of the tokens. All modules answer the same error at once, so a
further factor for all is searched for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import mlx.core as mx
import numpy as np

from benchmarks.recovery.codes import DTYPES, flat_codes, move_codes, terms_of, with_codes
from benchmarks.recovery.gradients import WeightGradients
from bitbudget.app.core.formats import Format
from bitbudget.workers.encoders.coded import Coded
from bitbudget.workers.encoders.quadratic import Term
from bitbudget.workers.fisher.statistics import ModuleStatistics
from bitbudget.workers.recovery.stored import AffineStored, Stored

__all__ = ["NewtonStep", "newton_step", "useful_share"]

_ITERATIONS: Final = 24
"""Of conjugate gradients, where a weight has two terms."""
_SWEEPS: Final = 2
"""Of the descent, from codes that it has left already."""


def curvature(step: np.ndarray, terms: Sequence[Term]) -> np.ndarray:
    """Return sum over terms of B S A for a step S (out, in)."""
    total = np.zeros_like(step)
    for term in terms:
        right = step @ term.columns
        total += term.rows @ right if term.is_coupled else term.rows[:, None] * right
    return total


def newton_step(gradient: np.ndarray, terms: Sequence[Term]) -> np.ndarray:
    """Return S with sum over terms of B S A = `gradient`, float32 (out, in)."""
    if len(terms) > 1:
        return _by_conjugate_gradients(gradient, terms)
    term, wide = terms[0], gradient.astype(np.float64)
    right = np.linalg.solve(term.columns.astype(np.float64), wide.T).T
    if term.is_coupled:
        right = np.linalg.solve(term.rows.astype(np.float64), right)
    else:
        right /= np.maximum(term.rows, np.finfo(np.float32).tiny)[:, None]
    return np.asarray(right, np.float32)


def _by_conjugate_gradients(gradient: np.ndarray, terms: Sequence[Term]) -> np.ndarray:
    diagonals = [np.outer(term.row_diagonal, np.diagonal(term.columns)) for term in terms]
    inverse = 1 / np.sum(diagonals, axis=0)
    step, residual = np.zeros_like(gradient), gradient.copy()
    direction = inverse * residual
    power = float(np.vdot(residual, direction))
    for _ in range(_ITERATIONS):
        image = curvature(direction, terms)
        length = np.float32(power / max(float(np.vdot(direction, image)), 1e-30))
        step += length * direction
        residual -= length * image
        scaled = inverse * residual
        before, power = power, float(np.vdot(residual, scaled))
        direction = scaled + np.float32(power / max(before, 1e-30)) * direction
    return np.asarray(step, np.float32)


def useful_share(halves: tuple[np.ndarray, np.ndarray], terms: Sequence[Term]) -> float:
    """Return which share of the step is best on tokens it was not made of, 0 to 1.

    With S of one half and G of the other that is <S, G> / tr(B S A S^T), over both ways round.
    """
    gained = spent = 0.0
    for own, other in (halves, halves[::-1]):
        step = newton_step(own, terms)
        gained += float(np.vdot(step, other))
        spent += float(np.vdot(step, own))
    return min(max(gained / spent, 0.0), 1.0) if spent > 0 else 0.0


@dataclass
class NewtonStep:
    """The step of every module, from gradients on two halves of the tokens.

    NewtonStep(formats, statistics, gradients).moved(student.stored, 0.05)
    """

    formats: Mapping[str, Format]
    statistics: Mapping[str, ModuleStatistics]
    gradients: WeightGradients
    terms: dict[tuple[str, tuple[int, ...]], tuple[Term, ...]] = field(default_factory=dict)
    steps: dict[tuple[str, tuple[int, ...]], np.ndarray] = field(default_factory=dict)

    def moved(
        self, stored: Mapping[str, Stored], size: float, paths: Collection[str] | None = None
    ) -> dict[str, Stored]:
        """Return what is stored after `size` of the step of all modules, or of those in `paths`."""
        return {
            path: self._moved(path, own, size)
            if isinstance(own, AffineStored) and (paths is None or path in paths)
            else own
            for path, own in stored.items()
        }

    def _moved(self, path: str, own: AffineStored, size: float) -> AffineStored:
        codes, scales, biases = flat_codes(own), np.array(own.scales), np.array(own.biases)
        for index in np.ndindex(*codes.shape[:-2]):
            start = Coded(codes[index].copy(), scales[index].copy(), biases[index].copy())
            goal = start.values - np.float32(size) * self._step(path, index, len(codes[index]))
            terms, dtype = self.terms[path, index], DTYPES[own.dtype]
            end = move_codes(start, goal, self.formats[path], dtype, terms, sweeps=_SWEEPS)
            codes[index], scales[index], biases[index] = end.codes, end.scales, end.biases
        return replace(with_codes(own, codes), scales=mx.array(scales), biases=mx.array(biases))

    def _step(self, path: str, index: tuple[int, ...], out: int) -> np.ndarray:
        """Return the useful share of the step."""
        key = path, index
        if key not in self.steps:
            terms = terms_of(self.statistics[path], index, out)
            own, other = (half[index] for half in self.gradients.halves(path))
            share = useful_share((own, other), terms)
            self.terms[key] = terms
            self.steps[key] = np.float32(share) * newton_step((own + other) / 2, terms)
        return self.steps[key]
