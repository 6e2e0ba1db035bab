"""The choice between a kernel and its reference."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import KERNELS, Kernel, metal_available, rd_sweep, self_test
from metal_kernels.launch import Launch


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_a_call_gives_what_the_reference_gives(kernel: Kernel) -> None:
    case = kernel.cases()[0]
    outputs = kernel(*case.arguments, **case.options)
    expected = kernel.reference(*case.arguments, **case.options)
    for output, reference in zip(outputs, expected, strict=True):
        scale = float(np.abs(np.array(reference.astype(mx.float32))).max())
        difference = np.array((output - reference).astype(mx.float32))
        assert np.abs(difference).max() <= case.tolerance * scale


def test_without_metal_the_self_test_says_so() -> None:
    if metal_available():
        pytest.skip("this machine has Metal")
    report = self_test(rd_sweep)
    assert not report.passed
    assert report.detail == "Metal is not available"


@pytest.mark.metal
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_a_kernel_passes_its_self_test_on_a_gpu(kernel: Kernel) -> None:
    if not metal_available():
        pytest.skip("needs Apple's Metal")
    report = self_test(kernel)
    assert report.passed, report.detail


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_kernel_that_disagrees_with_its_reference_fails_its_check(value: float) -> None:
    def wrong(launch: Launch) -> tuple[mx.array, ...]:
        shapes = zip(launch.output_shapes, launch.output_dtypes, strict=True)
        return tuple(mx.full(shape, value, dtype=dtype) for shape, dtype in shapes)

    for kernel in KERNELS:
        report = kernel.check(wrong)
        assert not report.passed
        assert "exceeds" in report.detail
