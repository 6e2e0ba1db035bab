"""ThreadSanitizer on small shapes: our kernels are free of data races, and it would know."""

from __future__ import annotations

import mlx.core as mx
import pytest

from metal_kernels import rht_qmm, rms_norm_rht
from metal_kernels.launch import Launch
from tests.metal_emulator.races import racing_lines
from tests.metal_kernels.mutants import BARRIER, mutate

pytestmark = pytest.mark.usefixtures("emulator")

NORM = rms_norm_rht.launch(mx.ones((2, 256)), mx.ones((256,)), eps=1e-5)
PACKED = mx.quantize(mx.ones((8, 64)), group_size=64, bits=4)
QMM = rht_qmm.launch(mx.ones((8, 64)), *PACKED, bits=4, group_size=64)


@pytest.mark.parametrize("launch", [NORM, QMM], ids=["norm", "qmm"])
def test_a_kernel_has_no_data_race(launch: Launch) -> None:
    assert racing_lines(launch) == set()


@pytest.mark.parametrize(("launch", "nth"), [(NORM, 0), (NORM, 1), (QMM, 0), (QMM, 1)])
def test_a_missing_barrier_is_a_race_with_its_lines(launch: Launch, nth: int) -> None:
    assert racing_lines(mutate(launch, BARRIER, "", nth))
