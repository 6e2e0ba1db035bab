"""Which of two measurements of one model answers best."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.rotation_choice import LEAST_GAIN, best_of, solve_each


@pytest.mark.parametrize(
    ("plain", "rotated", "lost", "chosen"),
    [
        (1.0, 0.9, 0.0, 1),
        (1.0, 1.0 - LEAST_GAIN / 2, 0.0, 0),
        (1.0, 0.9, 0.2, 0),
        (0.0, 0.0, 0.0, 0),
    ],
)
def test_a_rotation_must_save_more_than_it_lost(
    measurement: Measurement, plain: float, rotated: float, lost: float, chosen: int
) -> None:
    twin = replace(measurement, rotation="folded", rotation_kl_nats=lost)
    assert best_of([(measurement, plain), (twin, rotated)]) == chosen
    assert best_of([(twin, rotated), (measurement, plain)]) == (1 - chosen if plain else 0)


def test_the_best_that_is_feasible_is_taken(measurement: Measurement) -> None:
    losses = {"small": 0.3, "middle": 0.2}

    def solve(name: str) -> str:
        if name not in losses:
            raise InfeasibleBudgetError(budget_bytes=1, minimum_bytes=len(name), binding="bytes")
        return name

    def judged(name: str) -> tuple[Measurement, float]:
        return measurement, losses[name]

    assert solve_each(["large", "small", "middle", "huge"], solve, judged) == "middle"
    with pytest.raises(InfeasibleBudgetError) as caught:
        solve_each(["enormous", "large"], solve, judged)
    assert caught.value.minimum_bytes == len("enormous")
