"""One measurement against every Mac of the table."""

from __future__ import annotations

import pytest

from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.devices import DEVICES
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.guide import guide
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest
from tests.app.core.test_constraints import long_context, with_kv
from tests.support.speed import processor_limit


def test_every_device_has_the_answer_that_allocation_gives(measurement: Measurement) -> None:
    long = long_context(measurement, 30_000)
    rows = list(guide(long, 30_000))
    assert [row.device for row in rows] == list(DEVICES)
    for row in rows[::7]:
        if not row.fits:
            continue
        answer = allocate(long, AllocationRequest(device=row.device, context=30_000))
        assert (row.file_bytes, row.predicted) == (
            answer.file_bytes,
            answer.predicted_kl_nats_per_token,
        )
        assert row.file_bytes <= row.budget_bytes
        assert row.largest_context == 30_000


def test_a_device_that_is_too_small_says_so(measurement: Measurement) -> None:
    rows = {row.device: row for row in guide(long_context(measurement, 131_072), 131_072)}
    smallest, largest = (
        key(DEVICES.values(), key=lambda d: d.working_set_bytes) for key in (min, max)
    )
    assert not rows[smallest.name].fits
    assert rows[smallest.name].predicted is None
    assert rows[largest.name].fits


def test_quantized_caches_help_where_memory_is_short(measurement: Measurement) -> None:
    long = long_context(with_kv(measurement), 60_000)
    plain = {row.device: row for row in guide(long, 60_000)}
    joint = {row.device: row for row in guide(long, 60_000, joint_kv=True)}
    assert sum(row.fits for row in joint.values()) > sum(row.fits for row in plain.values())
    assert any("8g32" in row.kv_cache for row in joint.values())


def test_a_context_beyond_the_models_is_refused(measurement: Measurement) -> None:
    with pytest.raises(InvalidRequestError, match="context"):
        list(guide(measurement, 10**6))


def test_all_devices_take_less_than_two_seconds(measurement: Measurement) -> None:
    with processor_limit(2.0):
        assert len(list(guide(measurement, 256))) == len(DEVICES)
