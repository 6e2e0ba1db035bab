"""The statistics pass holds a few layers, not the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.statistics_memory import Bound, Shape, measure_peak, write_model


@pytest.mark.slow
def test_the_peak_stays_within_three_layers_and_what_they_need(tmp_path: Path) -> None:
    shape = Shape(layers=24)
    write_model(tmp_path, shape)
    peak, bound = measure_peak(tmp_path, shape), Bound.of(shape)
    assert bound.total < 0.6 * shape.model_bytes
    assert peak <= bound.total
