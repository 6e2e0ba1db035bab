"""Every kernel against its reference, on the emulator, in six orders of lanes."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.metal_kernels import KERNELS, Kernel
from bitbudget.metal_kernels.launch import Launch
from bitbudget.metal_kernels.thorough import thorough_cases
from tests.metal_emulator.emulate import ORDERS, emulate, to_numpy

pytestmark = pytest.mark.usefixtures("emulator")


def run(launch: Launch) -> tuple[mx.array, ...]:
    return emulate(launch).outputs


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_a_kernel_passes_every_case(kernel: Kernel) -> None:
    report = kernel.check(run, thorough_cases(kernel))
    assert report.passed, report.detail


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_the_order_of_lanes_changes_no_bit(kernel: Kernel) -> None:
    for case in kernel.cases()[:2]:
        launch = kernel.launch(*case.arguments, **case.options)
        first, *others = (emulate(launch, order=order).outputs for order in ORDERS)
        for other in others:
            for left, right in zip(first, other, strict=True):
                assert np.array_equal(to_numpy(left), to_numpy(right))
