"""A kernel with its reference, and the choice between the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import mlx.core as mx

from bitbudget.metal_kernels.launch import Launch

__all__ = [
    "TOLERANCE",
    "Case",
    "Computation",
    "Kernel",
    "SelfTest",
    "differentiable",
    "is_new_enough",
    "metal_available",
    "relative_error",
    "self_test",
]

TOLERANCE = {mx.float32: 1e-6, mx.float16: 1e-3, mx.bfloat16: 4e-3}
"""Largest error against the reference, relative to the largest output."""

_OLDEST_MLX = (0, 29)

Computation = Callable[..., tuple[mx.array, ...]]


@lru_cache
def metal_available() -> bool:
    """Whether this process can run Metal kernels: a Metal device, and mlx 0.29 or newer."""
    return is_new_enough(version("mlx")) and mx.metal.is_available()


def is_new_enough(mlx_version: str) -> bool:
    """Whether this version of MLX has what the launcher uses; an older one gets the references."""
    return tuple(int(part) for part in mlx_version.split(".")[:2]) >= _OLDEST_MLX


def _on_gpu() -> bool:
    return metal_available() and bool(mx.default_device() == mx.Device(mx.gpu))


@dataclass(frozen=True)
class Case:
    """Inputs that a kernel is checked on: positional arguments and options."""

    name: str
    arguments: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    tolerance: float = TOLERANCE[mx.bfloat16]


@dataclass(frozen=True)
class SelfTest:
    """Whether a kernel agrees with its reference, and where it does not."""

    passed: bool
    worst_error: float
    detail: str = ""


def relative_error(outputs: tuple[mx.array, ...], expected: tuple[mx.array, ...]) -> float:
    """Return the largest difference over the largest expected magnitude, over all outputs."""
    worst = 0.0
    for output, reference in zip(outputs, expected, strict=True):
        wide = reference.astype(mx.float32)
        difference = mx.abs(output.astype(mx.float32) - wide).max()
        scale = mx.maximum(mx.abs(wide).max(), 1e-30)
        worst = max(worst, abs((difference / scale).item()))
        if bool(mx.isnan(difference).item()):
            return float("inf")
    return worst


def differentiable(forward: Computation, reference: Computation) -> Computation:
    """Return `forward` with the gradient of `reference`: a Metal kernel has none of its own."""

    @mx.custom_function  # type: ignore[misc, unused-ignore]
    def call(*arrays: mx.array) -> list[mx.array]:
        return list(forward(*arrays))

    @call.vjp  # type: ignore[misc, unused-ignore]
    def pull(primals: Any, cotangents: Any, _: Any) -> list[mx.array]:
        given = [primals] if isinstance(primals, mx.array) else list(primals)
        real = [i for i, array in enumerate(given) if mx.issubdtype(array.dtype, mx.floating)]

        def of_real(*arrays: mx.array) -> list[mx.array]:
            every = [*given]
            for index, array in zip(real, arrays, strict=True):
                every[index] = array
            return list(reference(*every))

        pulled = mx.vjp(of_real, [given[i] for i in real], list(cotangents))[1]
        by_index = dict(zip(real, pulled, strict=True))
        return [by_index.get(i, mx.zeros_like(array)) for i, array in enumerate(given)]

    def run(*arrays: mx.array) -> tuple[mx.array, ...]:
        outputs: Any = call(*arrays)
        return tuple(outputs)

    return run


@dataclass(frozen=True)
class Kernel:
    """A Metal kernel, called like its reference in MLX operations.

    `launch` and `reference` take the same arguments and give the same outputs. A call runs the
    kernel on a GPU where its self-test passes, else the reference. Gradients are the reference's.
    """

    name: str
    launch: Callable[..., Launch]
    reference: Callable[..., tuple[mx.array, ...]]
    cases: Callable[[], tuple[Case, ...]]

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def runs(self) -> bool:
        """Whether a call runs the kernel: on a GPU, and its self-test passed."""
        return _on_gpu() and self_test(self).passed

    def __call__(self, *arguments: Any, **options: Any) -> tuple[mx.array, ...]:
        """Return the outputs; KernelInputError for arrays the kernel is not made for."""
        if not self.runs:
            return self.reference(*arguments, **options)
        return differentiable(
            lambda *arrays: tuple(self.launch(*arrays, **options).run()),
            lambda *arrays: self.reference(*arrays, **options),
        )(*arguments)

    def check(
        self,
        run: Callable[[Launch], tuple[mx.array, ...]],
        cases: tuple[Case, ...] | None = None,
    ) -> SelfTest:
        """Compare launches, run by `run`, with the reference; by default those of the self-test."""
        worst = 0.0
        for case in self.cases() if cases is None else cases:
            outputs = run(self.launch(*case.arguments, **case.options))
            error = relative_error(outputs, self.reference(*case.arguments, **case.options))
            worst = max(worst, error)
            if not error <= case.tolerance:
                detail = f"{self.name}, {case.name}: error {error:.2e} exceeds {case.tolerance:.0e}"
                return SelfTest(passed=False, worst_error=worst, detail=detail)
        return SelfTest(passed=True, worst_error=worst)


@lru_cache
def self_test(kernel: Kernel) -> SelfTest:
    """Run `kernel` against its reference once per process; needs Metal."""
    if not metal_available():
        return SelfTest(passed=False, worst_error=0.0, detail="Metal is not available")
    return kernel.check(lambda launch: tuple(launch.run()))
