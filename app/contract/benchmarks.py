"""The report of `bitbudget benchmark`: speed, memory and the checks of kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from pydantic import Field

from bitbudget.app.contract.messages import (
    MOST_ENTRIES,
    Amount,
    Flag,
    Line,
    Notes,
    Quantity,
    Report,
    Text,
    is_none,
)

__all__ = [
    "Benchmark",
    "BytesPerToken",
    "KernelCheck",
    "KernelTiming",
    "Kernels",
    "KernelsMissing",
    "Machine",
    "SpeedPrediction",
]

_FIGURES: Final = (
    "prompt_tokens",
    "generate_tokens",
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "time_to_first_token_seconds",
    "peak_memory_bytes",
    "peak_process_bytes",
    "roofline_tokens_per_second",
    "roofline_fraction",
)


class Machine(Report):
    """What a benchmark ran on."""

    chip: Line
    backend: Literal["metal", "cpu", "cuda"]
    memory_bytes: Amount
    working_set_bytes: Amount | None
    logical_cores: Amount | None
    system: Line
    machine: Line
    python: Line
    versions: Annotated[dict[Line, Line], Field(max_length=64)]


class BytesPerToken(Report):
    """What decoding one token reads, by origin."""

    dense: Amount
    experts: Amount
    embedding: Amount
    cache: Amount
    total: Amount


class SpeedPrediction(Report):
    """What decoding speed was expected of this machine, and of the device that was asked for."""

    efficiency: Quantity
    decode_tokens_per_second: Quantity
    measured_over_predicted: Quantity
    device: Line | None
    device_tokens_per_second: Quantity | None
    minimum_tokens_per_second: Quantity | None
    meets_minimum: Flag | None


class KernelCheck(Report):
    """A Metal kernel against its reference; `worst_error` is null where it is not finite."""

    passed: Flag
    worst_error: Quantity | None
    detail: Text


class KernelTiming(Report):
    """Median seconds of a Metal kernel and of the stock operations it replaces.

    `order` is that of the threadgroups of a tiled product that was faster on this machine.
    """

    input_bytes: Amount
    ours_seconds: Quantity
    stock_seconds: Quantity
    order: Line | None


class Kernels(Report):
    """The Metal kernels, checked and timed, by name."""

    available: Literal[True] = True
    checks: Annotated[dict[Line, KernelCheck], Field(max_length=256)]
    timings: Annotated[dict[Line, KernelTiming], Field(max_length=256)]


class KernelsMissing(Report):
    """Why the Metal kernels cannot run here."""

    available: Literal[False] = False
    reason: Text


class Benchmark(Report):
    """The report of `benchmark --json`; without a checkpoint it has no speed."""

    device: Machine
    bandwidth_bytes_per_second: Quantity
    not_measured: Notes
    prompt_tokens: Amount | None = Field(None, exclude_if=is_none)
    generate_tokens: Amount | None = Field(None, exclude_if=is_none)
    prefill_tokens_per_second: Quantity | None = Field(None, exclude_if=is_none)
    decode_tokens_per_second: Quantity | None = Field(None, exclude_if=is_none)
    time_to_first_token_seconds: Quantity | None = Field(None, exclude_if=is_none)
    decode_trials: Annotated[tuple[Quantity, ...], Field(max_length=MOST_ENTRIES)] | None = Field(
        None, exclude_if=is_none
    )
    peak_memory_bytes: Amount | None = Field(None, exclude_if=is_none)
    peak_process_bytes: Amount | None = Field(None, exclude_if=is_none)
    bytes_per_token: BytesPerToken | None = Field(None, exclude_if=is_none)
    roofline_tokens_per_second: Quantity | None = Field(None, exclude_if=is_none)
    roofline_fraction: Quantity | None = Field(None, exclude_if=is_none)
    prediction: SpeedPrediction | None = Field(None, exclude_if=is_none)
    kernels: Kernels | KernelsMissing | None = Field(
        None, discriminator="available", exclude_if=is_none
    )

    def figures(self) -> Iterator[tuple[str, float]]:
        """Give every number by name, then the predicted speed and how it was met."""
        yield "bandwidth_bytes_per_second", self.bandwidth_bytes_per_second
        for name in _FIGURES:
            value = getattr(self, name)
            if value is not None:
                yield name, value
        if self.prediction is not None:
            yield "predicted_tokens_per_second", self.prediction.decode_tokens_per_second
            yield "measured_over_predicted", self.prediction.measured_over_predicted
