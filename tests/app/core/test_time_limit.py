"""A constrained solve ends at its time limit, whichever stage it is in."""

from __future__ import annotations

import time
from dataclasses import replace

from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.measurement import Curve, Measurement
from bitbudget.app.core.requests import AllocationRequest
from tests.support.speed import check_processor_time

LIMIT_SECONDS = 1.0
LAYERS = 250


def test_many_side_rows_cost_no_more_than_the_time_limit(measurement: Measurement) -> None:
    """The clock is this process's own, so that a busy machine fails no test."""
    module = next(m for m in measurement.inventory.modules if m.layer is not None)
    curve = next(c for c in measurement.curves if c.path == module.path)
    paths = {f"model.layers.{n // 7}.m{n % 7}": n for n in range(7 * LAYERS)}
    large = replace(
        measurement,
        inventory=replace(
            measurement.inventory,
            modules=tuple(
                replace(module, path=path, decision_group=path, layer=n // 7)
                for path, n in paths.items()
            ),
        ),
        curves=tuple(Curve(path, 1.0 + n % 31, curve.points) for path, n in paths.items()),
    )
    asked = AllocationRequest(
        budget=module.weights * len(paths), max_low_bit_per_block=1, time_limit_seconds=600
    )
    end = time.process_time() + LIMIT_SECONDS
    found = allocate(
        large,
        asked,
        is_over=lambda: time.process_time() > end,
        seconds_left=lambda: end - time.process_time(),
    )
    check_processor_time(end, 4 * LIMIT_SECONDS)
    low = [f.bits < 4 for f in found.formats.values()]
    assert sum(low) <= LAYERS
