"""Which of several measurements of one model, as it is and rotated, answers a request best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from app.core.errors import InfeasibleBudgetError
from app.core.measurement import Measurement

__all__ = ["LEAST_GAIN", "best_of", "solve_each"]

_Solution = TypeVar("_Solution")

LEAST_GAIN: Final = 0.05
"""Share of its KL that a rotated model must save over the unrotated one: less is within what
predictions of two different models err by, and the unrotated one is the simpler answer."""


def best_of(candidates: Sequence[tuple[Measurement, float]]) -> int:
    """Return the index of the best (measurement, predicted KL of its allocation) in nats per token.

    What a rotated model's weights lost when they were rounded once more comes on top of what its
    allocation loses.
    """

    def expected(candidate: tuple[Measurement, float]) -> float:
        measurement, predicted = candidate
        total = predicted + measurement.rotation_kl_nats
        return total if measurement.rotation == "none" else total / (1 - LEAST_GAIN)

    return min(range(len(candidates)), key=lambda index: expected(candidates[index]))


def solve_each(
    measurements: Sequence[Measurement],
    solve: Callable[[Measurement], _Solution],
    predicted: Callable[[_Solution], float],
) -> tuple[Measurement, _Solution]:
    """Return the best of what `solve` finds, by its `predicted` KL, and the measurement it is of.

    InfeasibleBudgetError when the budget fits none; it names the smallest size of the first.
    """
    made: list[tuple[Measurement, _Solution]] = []
    refusals: list[InfeasibleBudgetError] = []
    for measurement in measurements:
        try:
            made.append((measurement, solve(measurement)))
        except InfeasibleBudgetError as refusal:
            refusals.append(refusal)
    if not made:
        raise refusals[0]
    return made[best_of([(measurement, predicted(found)) for measurement, found in made])]
