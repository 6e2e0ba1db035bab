"""The choice between a kernel and its reference."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.metal_kernels import (
    KERNELS,
    Kernel,
    metal_available,
    own_order,
    rd_sweep,
    rht_order,
    rht_qmv,
    self_test,
)
from bitbudget.metal_kernels.kernel import Computation, differentiable, is_new_enough
from bitbudget.metal_kernels.launch import Launch
from bitbudget.metal_kernels.prefill import fastest, order_of, seconds_in_turn
from bitbudget.metal_kernels.products import Order
from bitbudget.metal_kernels.thorough import thorough_cases
from bitbudget.workers.benchmark.kernels import timing


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


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.28.9", False),
        ("0.5.0", False),
        ("0.29.0", True),
        ("0.32.4.dev1+gabc", True),
        ("1.0", True),
    ],
)
def test_an_old_mlx_runs_no_kernel(version: str, *, expected: bool) -> None:
    assert is_new_enough(version) is expected


@pytest.mark.metal
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_a_kernel_passes_every_case_on_a_gpu(kernel: Kernel) -> None:
    if not metal_available():
        pytest.skip("needs Apple's Metal")
    report = kernel.check(lambda launch: tuple(launch.run()), thorough_cases(kernel))
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


def test_a_kernel_has_the_gradient_of_its_reference() -> None:
    weight = mx.random.normal((8, 64), key=mx.random.key(1))
    w, scales, biases = mx.quantize(weight, group_size=32, bits=4)
    x = mx.random.normal((2, 64), key=mx.random.key(2))

    def reference(*arrays: mx.array) -> tuple[mx.array, ...]:
        return rht_qmv.reference(*arrays, bits=4, group_size=32)

    def without(*arrays: mx.array) -> tuple[mx.array, ...]:
        return tuple(mx.stop_gradient(output) for output in reference(*arrays))

    def loss(computation: Computation, x: mx.array, scales: mx.array) -> mx.array:
        return mx.square(computation(x, w, scales, biases)[0]).sum()

    kernel = differentiable(without, reference)
    for call in (kernel, mx.compile(kernel)):
        found = mx.grad(lambda *a, c=call: loss(c, *a), argnums=(0, 1))(x, scales)
        expected = mx.grad(lambda *a: loss(reference, *a), argnums=(0, 1))(x, scales)
        for left, right in zip(found, expected, strict=True):
            assert np.abs(np.array(right)).max() > 0
            assert np.allclose(np.array(left), np.array(right), rtol=1e-5)


def test_without_metal_prefill_takes_stock_operations() -> None:
    if metal_available():
        pytest.skip("this machine has Metal")
    assert rht_order(4, 64) is None
    assert own_order("two", 4, 16, rotate=True) is None


@pytest.mark.parametrize(
    ("stock", "linear", "morton", "order"),
    [
        ((3, 3, 3), (2, 9, 2), (1, 9, 9), Order.LINEAR),
        ((3, 3, 3), (2, 2, 2), (1, 1, 9), Order.MORTON),
        ((3, 3, 3), (2, 2, 2), (2, 2, 2), Order.LINEAR),
        ((1, 9, 2), (2, 2, 2), (3, 3, 3), None),
    ],
)
def test_the_order_of_threadgroups_is_that_of_the_least_median(
    stock: tuple[float, ...],
    linear: tuple[float, ...],
    morton: tuple[float, ...],
    order: Order | None,
) -> None:
    assert order_of({"linear": linear, "morton": morton, "stock": stock}) is order
    reported = timing(7, {"linear": linear, "morton": morton, "stock": stock})
    assert reported["order"] == (order or Order.LINEAR)
    assert reported["ours_seconds"] <= min(sorted(linear)[1], sorted(morton)[1])


def test_engines_are_timed_in_turn() -> None:
    slow, fast = mx.ones((512, 512)), mx.ones((2, 2))
    times = seconds_in_turn({"slow": lambda: slow @ slow, "fast": lambda: fast + 1})
    assert fastest(times) == "fast"
    assert {len(found) for found in times.values()} == {7}
