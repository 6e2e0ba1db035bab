"""Predictions against measurements on random allocations of the sample model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import bitbudget.workers.prediction.verification
from bitbudget.app.core.calibration import UNCALIBRATED
from bitbudget.app.core.formats import AFFINE_FORMATS, KEEP
from bitbudget.app.core.measurement import Curve, Encoder
from bitbudget.workers.curves.exact import as_float32, kl_curve
from bitbudget.workers.fisher import Statistics, collect_statistics
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.prediction.verification import agreement, verify
from bitbudget.workers.running.tokens import sample_tokens


def test_agreement_of_a_perfect_and_of_a_scaled_prediction() -> None:
    perfect = agreement([1.0, 2.0, 4.0], [1.0, 2.0, 4.0], [3.0, 4.0, 5.0])
    assert perfect.r_squared == pytest.approx(1)
    assert perfect.spearman == pytest.approx(1)
    assert perfect.slope == pytest.approx(1)
    halved = agreement([1.0, 2.0, 4.0], [0.5, 1.0, 2.0], [3.0, 4.0, 5.0])
    assert halved.slope == pytest.approx(0.5)
    assert halved.spearman == pytest.approx(1)
    assert halved.r_squared < 0


@pytest.fixture(scope="module")
def statistics(sample_model: Path) -> Statistics:
    tokens = sample_tokens(sample_model, 16, 128, seed=0)
    return collect_statistics(sample_model, tokens, seed=0)


@pytest.fixture(scope="module")
def curves(sample_model: Path, statistics: Statistics) -> dict[str, Curve]:
    checkpoint = open_checkpoint(sample_model)
    inventory = build_inventory(checkpoint)
    curves = {}
    for module in inventory.modules:
        weight = np.stack([as_float32(p, module.dtype) for p in checkpoint.parts(module.path)])
        points = kl_curve(
            module,
            weight.reshape(module.shape),
            (*AFFINE_FORMATS, KEEP),
            Encoder.CAREFUL,
            statistics[module.path],
        )
        curves[module.path] = Curve(module.path, 1.0, tuple(points))
    return curves


def factors(corrected: dict[str, Curve], curves: dict[str, Curve]) -> list[float]:
    assert corrected.keys() == curves.keys()
    found = {
        round(new.kl_nats / old.kl_nats, 9)
        for path, curve in corrected.items()
        for new, old in zip(curve.points, curves[path].points, strict=True)
        if old.kl_nats > 0
    }
    assert len(found) == 1, "one factor for all leaves the ranking of allocations as it is"
    return list(found)


def test_random_allocations_cost_what_is_predicted(
    sample_model: Path, statistics: Statistics, curves: dict[str, Curve]
) -> None:
    checkpoint = open_checkpoint(sample_model)
    inventory = build_inventory(checkpoint)
    checked = verify(checkpoint, inventory, curves, Encoder.CAREFUL, statistics, seed=0)
    corrected, found = checked.curves, checked.verification
    assert len(found.measured) == 8
    assert found.spearman >= 0.95
    assert 0.8 < found.slope < 1.3
    assert all(3 < bits < 10 for bits in found.bits_per_weight)
    assert 0.5 < factors(corrected, curves)[0] < 2
    assert len(checked.calibration.costs) == 3
    middle = checked.calibration.costs[1]
    assert checked.calibration.kl(middle) == pytest.approx(middle)


def test_of_a_large_model_random_parts_are_quantized(
    sample_model: Path,
    statistics: Statistics,
    curves: dict[str, Curve],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = open_checkpoint(sample_model)
    inventory = build_inventory(checkpoint)
    monkeypatch.setattr(
        bitbudget.workers.prediction.verification, "MOST_WEIGHTS", inventory.weights // 8
    )
    told: list[tuple[int, int]] = []
    checked = verify(
        checkpoint,
        inventory,
        curves,
        Encoder.CAREFUL,
        statistics,
        seed=0,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(i, 8) for i in range(9)]
    found = checked.verification
    assert found.spearman >= 0.9
    assert 0.7 < found.slope < 1.4
    assert max(found.measured) < sum(c.points[0].kl_nats for c in checked.curves.values()) / 4
    assert 0.5 < factors(checked.curves, curves)[0] < 2
    assert checked.calibration == UNCALIBRATED
