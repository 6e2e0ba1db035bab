from __future__ import annotations

import math

from bitbudget.app.core.formats import KEEP, parse_format
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.sqnr import sqnr_db


def test_a_measurement_reads_back_to_the_same_bytes(measurement: Measurement) -> None:
    data = measurement.to_json()
    again = Measurement.from_json(data)
    assert again == measurement
    assert again.to_json() == data
    assert again.key == measurement.key


def test_points_are_found_by_format(measurement: Measurement) -> None:
    curve = measurement.curve("model.embed_tokens")
    assert curve.point(KEEP).kl_nats == 0
    assert curve.point(parse_format("affine4g64")).kl_nats > 0


def test_sqnr_is_in_decibel() -> None:
    assert sqnr_db(1e-3) == 30.0
    assert math.isinf(sqnr_db(0.0))
