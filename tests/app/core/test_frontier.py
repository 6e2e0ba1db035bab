from __future__ import annotations

from itertools import pairwise

import pytest

from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.baselines import mixed_formats, uniform_formats
from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.formats import Format, Mode
from bitbudget.app.core.frontier import frontier, solve_budgets
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest


def test_is_monotone_convex_and_consistent_with_single_solves(measurement: Measurement) -> None:
    points = frontier(measurement).breakpoints
    slopes = []
    for left, right in pairwise(points):
        assert left.file_bytes < right.file_bytes
        assert left.kl_nats_per_token > right.kl_nats_per_token
        drop = left.kl_nats_per_token - right.kl_nats_per_token
        slopes.append(drop / (right.file_bytes - left.file_bytes))
    assert all(first >= second * (1 - 1e-9) for first, second in pairwise(slopes))
    for point in points[:: max(1, len(points) // 15)]:
        single = allocate(measurement, AllocationRequest(budget=point.file_bytes))
        assert single.file_bytes == point.file_bytes
        assert single.predicted_kl_nats_per_token == pytest.approx(
            point.kl_nats_per_token, rel=1e-9, abs=1e-15
        )


def test_no_recipe_is_below_the_frontier(measurement: Measurement) -> None:
    whole = frontier(measurement, sqnr_floor_db=0)
    layout = plan_checkpoint(measurement.inventory)
    marked = {point.name: point for point in (*whole.uniform, *whole.recipes)}
    assert {"affine4g64", "mxfp4", "mixed_3_6"} <= set(marked)
    four = uniform_formats(measurement.inventory, Format(Mode.AFFINE, 4, 64))
    assert marked["affine4g64"].file_bytes == layout.file_bytes(four)
    for point in marked.values():
        best = allocate(measurement, AllocationRequest(budget=point.file_bytes, sqnr_floor_db=0))
        assert best.bound <= point.kl_nats_per_token


def test_thinning_keeps_both_ends(measurement: Measurement) -> None:
    whole, thin = frontier(measurement), frontier(measurement, max_points=5)
    assert len(thin.breakpoints) == 5
    assert thin.breakpoints[0] == whole.breakpoints[0]
    assert thin.breakpoints[-1] == whole.breakpoints[-1]


def test_mixed_recipe_gives_more_bits_to_the_same_modules_as_mlx_lm(
    measurement: Measurement,
) -> None:
    formats = mixed_formats(measurement.inventory, "mixed_3_6")
    assert formats["model.layers.0.self_attn.q_proj"].bits == 3
    assert str(formats["model.layers.0.mlp.down_proj"]) == "keep"


def test_many_budgets_in_one_call(measurement: Measurement) -> None:
    whole = frontier(measurement)
    first, last = whole.smallest_bytes, whole.breakpoints[-1].file_bytes
    budgets = list(range(first, last, (last - first) // 50))
    points = solve_budgets(measurement, budgets)
    for budget, point in zip(budgets, points, strict=True):
        assert point.file_bytes <= budget
        single = allocate(measurement, AllocationRequest(budget=budget))
        assert point.kl_nats_per_token == pytest.approx(
            single.predicted_kl_nats_per_token, rel=1e-4, abs=1e-12
        )
    with pytest.raises(InfeasibleBudgetError):
        solve_budgets(measurement, [first - 1])
