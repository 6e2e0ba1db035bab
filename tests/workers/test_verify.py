"""Predictions against measurements on random allocations of the sample model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.core.formats import AFFINE_FORMATS, KEEP
from app.core.measurement import Curve, Encoder
from workers.curves import as_float32, kl_curve
from workers.fisher import collect_statistics, sample_tokens
from workers.models import build_inventory, open_checkpoint
from workers.verify import agreement, verify


def test_agreement_of_a_perfect_and_of_a_scaled_prediction() -> None:
    perfect = agreement([1.0, 2.0, 4.0], [1.0, 2.0, 4.0], [3.0, 4.0, 5.0])
    assert perfect.r_squared == pytest.approx(1)
    assert perfect.spearman == pytest.approx(1)
    assert perfect.slope == pytest.approx(1)
    halved = agreement([1.0, 2.0, 4.0], [0.5, 1.0, 2.0], [3.0, 4.0, 5.0])
    assert halved.slope == pytest.approx(0.5)
    assert halved.spearman == pytest.approx(1)
    assert halved.r_squared < 0


def test_random_allocations_cost_what_is_predicted(sample_model: Path) -> None:
    checkpoint = open_checkpoint(sample_model)
    inventory = build_inventory(checkpoint)
    tokens = sample_tokens(sample_model, 16, 128, seed=0)
    statistics = collect_statistics(checkpoint, tokens, seed=0)
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
    checked = verify(checkpoint, inventory, curves, Encoder.CAREFUL, statistics, seed=0)
    corrected, found = checked.curves, checked.verification
    assert len(found.measured) == 8
    assert found.spearman >= 0.95
    assert 0.8 < found.slope < 1.3
    assert all(3 < bits < 10 for bits in found.bits_per_weight)
    assert corrected.keys() == curves.keys()
    factors = {
        round(new.kl_nats / old.kl_nats, 9)
        for path, curve in corrected.items()
        for new, old in zip(curve.points, curves[path].points, strict=True)
        if old.kl_nats > 0
    }
    assert len(factors) == 1, "one factor for all leaves the ranking of allocations as it is"
    assert all(0.5 < factor < 2 for factor in factors)
    assert len(checked.calibration.costs) == 5
    middle = checked.calibration.costs[2]
    assert checked.calibration.kl(middle) == pytest.approx(middle)
