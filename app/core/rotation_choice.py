"""Which of several measurements of one model, as it is and rotated, answers a request best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import Rotation

__all__ = ["LEAST_GAIN", "auto_rotations", "best_of", "solve_each"]

_Candidate = TypeVar("_Candidate")
_Solution = TypeVar("_Solution")

LEAST_GAIN: Final = 0.05
"""Share of its KL that a rotated model must save over the unrotated one: less is within what
predictions of two different models err by, and the unrotated one is the simpler answer."""


def auto_rotations(*, has_own_formats: bool) -> tuple[Rotation, Rotation]:
    """Return what `auto` chooses between: no rotation, and the strongest that can be loaded.

    Formats that need `bitbudget.load` come with a loader of fused rotations.
    """
    return Rotation.NONE, Rotation.FUSED if has_own_formats else Rotation.FOLDED


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
    candidates: Iterable[_Candidate],
    solve: Callable[[_Candidate], _Solution],
    judged: Callable[[_Solution], tuple[Measurement, float]],
) -> _Solution:
    """Return the best of what `solve` makes of the candidates.

    `judged` tells the measurement that a solution is of, and its predicted KL in nats per token.
    InfeasibleBudgetError when the budget fits none; it names the smallest size of the first.
    """
    made: list[_Solution] = []
    refusals: list[InfeasibleBudgetError] = []
    for candidate in candidates:
        try:
            made.append(solve(candidate))
        except InfeasibleBudgetError as refusal:
            refusals.append(refusal)
    if not made:
        raise refusals[0]
    return made[best_of([judged(solution) for solution in made])]
