"""ThreadSanitizer on small shapes: our kernels are free of data races, and it would know."""

from __future__ import annotations

import mlx.core as mx
import pytest

from bitbudget.metal_kernels import (
    rd_sweep,
    residual_rms_norm_rht,
    rht32,
    rht_qmm,
    rht_qmv,
    rms_norm_rht,
    swiglu_rht,
    turbo_attend,
)
from bitbudget.metal_kernels.attention_cases import attention_case
from bitbudget.metal_kernels.launch import Launch
from tests.metal_emulator.races import racing_lines
from tests.metal_kernels.mutants import BARRIER, mutate

pytestmark = pytest.mark.usefixtures("emulator")

NORM = rms_norm_rht.launch(mx.ones((2, 256)), mx.ones((256,)), eps=1e-5)
PACKED = mx.quantize(mx.ones((8, 64)), group_size=64, bits=4)
QMM = rht_qmm.launch(mx.ones((8, 64)), *PACKED, bits=4, group_size=64)


ATTENTION = attention_case(mx.float32, (3, 2), (64, 32), context=40, capacity=600)
SMALL = mx.ones((2, 64))
LAUNCHES = (
    NORM,
    QMM,
    residual_rms_norm_rht.launch(SMALL, SMALL, SMALL[0], eps=1e-5),
    rht32.launch(SMALL, SMALL[0]),
    rht_qmv.launch(SMALL, *PACKED, bits=4, group_size=64),
    swiglu_rht.launch(SMALL, SMALL),
    rd_sweep.launch(SMALL),
    turbo_attend.launch(*ATTENTION.arguments, **ATTENTION.options),
)


@pytest.mark.parametrize("launch", LAUNCHES, ids=lambda launch: launch.source.name)
def test_a_kernel_has_no_data_race(launch: Launch) -> None:
    assert racing_lines(launch) == set()


@pytest.mark.parametrize(("launch", "nth"), [(NORM, 0), (NORM, 1), (QMM, 0), (QMM, 1)])
def test_a_missing_barrier_is_a_race_with_its_lines(launch: Launch, nth: int) -> None:
    assert racing_lines(mutate(launch, BARRIER, "", nth))
