"""A Newton step on the codes of a checkpoint, from the gradient of its KL.

Near quantized weights the KL of a change D of one of them is <G, D> + 1/2 tr(B D A D^T), with G its
gradient there and A, B the Kronecker factors of the Fisher information. Its minimum is -B^-1 G
A^-1; codes go towards a share of that by descent from where they are. G is partly noise: the share
is what was best between two halves of the tokens. All modules answer the same error at once, so a
further factor for all is searched for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import mlx.core as mx
import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import Format
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.encoders.coded import Coded
from bitbudget.workers.encoders.descent import move_codes
from bitbudget.workers.encoders.quadratic import Term
from bitbudget.workers.encoders.registry import ModuleEncoder
from bitbudget.workers.fisher.statistics import ModuleStatistics
from bitbudget.workers.recovery.divergence import cross_entropy
from bitbudget.workers.recovery.stored import AffineStored, Stored
from bitbudget.workers.recovery.training import Training

__all__ = ["NewtonStep", "newton_step", "useful_share", "weight_gradients"]

_ITERATIONS: Final = 24
"""Of conjugate gradients, where a weight has two terms."""
_DTYPES: Final = {mx.bfloat16: Dtype.BF16, mx.float16: Dtype.F16, mx.float32: Dtype.F32}

Gradients = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Gradient of KL with respect to each weight, float32 (..., out, in), on two halves of tokens."""


def weight_gradients(training: Training, batches: int) -> Gradients:
    """Return the gradients per token at the best values so far, over so many batches."""
    training.student.apply(training.kept, stored=True)
    modules: dict[str, Any] = training.student.modules
    weights = {path: modules[path].weight for path in training.student.stored}

    def loss(moved: dict[str, mx.array], ids: mx.array, target: mx.array) -> mx.array:
        for path, weight in moved.items():
            modules[path].weight = weight
        found: Any = cross_entropy(training.student.model(ids), target)
        return found  # type: ignore[no-any-return]

    gradient = mx.grad(loss)
    sums: list[dict[str, mx.array]] = [{path: mx.zeros(1) for path in weights} for _ in range(2)]
    for number in range(batches):
        half = sums[number % 2]
        found = gradient(weights, *training.prepare().next(grow=False))
        half.update({path: half[path] + found[path] for path in weights})
        mx.eval(half)
    count = batches / 2
    return {p: (np.array(sums[0][p]) / count, np.array(sums[1][p]) / count) for p in weights}


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
    """The step of every module from gradients on two halves; `moved` codes of a given size of it.

    NewtonStep(formats, statistics, gradients).moved(student.stored, 0.05)
    """

    formats: Mapping[str, Format]
    statistics: Mapping[str, ModuleStatistics]
    gradients: Gradients
    terms: dict[tuple[str, tuple[int, ...]], tuple[Term, ...]] = field(default_factory=dict)
    steps: dict[tuple[str, tuple[int, ...]], np.ndarray] = field(default_factory=dict)

    def moved(self, stored: Mapping[str, Stored], size: float) -> tuple[dict[str, Stored], int]:
        """Return what is stored after `size` of the step, and how many codes moved."""
        found: dict[str, Stored] = {
            path: self._moved(path, own, size)
            for path, own in stored.items()
            if isinstance(own, AffineStored)
        }
        changed = [int((own.codes != stored[path].codes).sum()) for path, own in found.items()]
        return found, sum(changed)

    def _moved(self, path: str, own: AffineStored, size: float) -> AffineStored:
        *lead, out, groups, group = own.codes.shape
        shape = (*lead, out, groups * group)
        codes = np.array(own.codes).reshape(shape)
        scales, biases = np.array(own.scales), np.array(own.biases)
        for index in np.ndindex(*lead):
            start = Coded(codes[index].copy(), scales[index].copy(), biases[index].copy())
            goal = start.values - np.float32(size) * self._step(path, index, out)
            terms = self.terms[path, index]
            end = move_codes(start, goal, self.formats[path], _DTYPES[own.dtype], terms)
            codes[index], scales[index], biases[index] = end.codes, end.scales, end.biases
        return replace(
            own,
            codes=mx.array(codes.reshape(own.codes.shape)),
            scales=mx.array(scales),
            biases=mx.array(biases),
        )

    def _step(self, path: str, index: tuple[int, ...], out: int) -> np.ndarray:
        """Return the useful share of the step."""
        key = path, index
        if key not in self.steps:
            terms = ModuleEncoder(self.statistics[path], Encoder.YAQA).target(index, out).terms
            if len(terms) == 1:  # the encoders need no unit, A has trace one in nats
                columns = terms[0].columns / np.trace(terms[0].columns)
                terms = (Term(columns, terms[0].rows),)
            own, other = (half[index] for half in self.gradients[path])
            share = useful_share((own, other), terms)
            self.terms[key] = terms
            self.steps[key] = np.float32(share) * newton_step((own + other) / 2, terms)
        return self.steps[key]
