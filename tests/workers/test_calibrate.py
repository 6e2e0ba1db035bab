"""The power law between predicted and measured KL."""

from __future__ import annotations

import pytest

from app.core.formats import AFFINE_FORMATS, KEEP
from app.core.measurement import KEEP_POINT, Curve, CurvePoint
from workers.calibrate import PowerLaw, calibrated, fit_power_law

PREDICTED = [0.2, 0.05, 0.01, 0.003, 0.0006, 0.0001]


def curve(path: str, scale: float) -> Curve:
    points = [CurvePoint(f, 4.0**-f.bits, scale * 4.0**-f.bits) for f in AFFINE_FORMATS]
    return Curve(path, scale, (*points, KEEP_POINT))


def test_a_true_prediction_is_left_alone() -> None:
    law = fit_power_law(PREDICTED, PREDICTED)
    assert law.offset == pytest.approx(0)
    assert law.exponent == pytest.approx(1)
    curves = {"a": curve("a", 1.0)}
    for point in calibrated(curves, law)["a"].points:
        assert point.kl_nats == pytest.approx(curves["a"].point(point.format).kl_nats)


def test_routers_that_flip_make_small_errors_dearer() -> None:
    measured = [p + 0.1 * p**0.5 * 0.02 for p in PREDICTED]
    law = fit_power_law(PREDICTED, measured)
    assert law.exponent < 1
    for p, m in zip(PREDICTED, measured, strict=True):
        assert p * law.factor(p) == pytest.approx(m, rel=0.08)


def test_few_points_and_zeros_change_nothing() -> None:
    assert fit_power_law([0.1, 0.0, 0.2, 0.3], [0.2, 0.1, 0.4, 0.6]) == PowerLaw()


def test_the_correction_is_bounded_and_keep_stays_free() -> None:
    found = calibrated({"a": curve("a", 1.0)}, PowerLaw(offset=9.0))["a"]
    assert found.point(KEEP).kl_nats == 0
    for point in found.points[:-1]:
        assert point.kl_nats == pytest.approx(3 * point.t2)
