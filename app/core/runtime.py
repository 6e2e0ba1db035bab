"""Which program runs a checkpoint: what it can load, and what it needs beside the weights."""

from __future__ import annotations

from enum import StrEnum

from bitbudget.app.core.formats import ALL_FORMATS, STOCK_FORMATS, Format

__all__ = ["Runtime", "measured_formats", "offered_formats"]


class Runtime(StrEnum):
    """The loader that a result is made for.

    `stock` is mlx-lm as it is. `bitbudget` is mlx-lm with models opened by `bitbudget.load`, which
    attends over quantized caches without holding scores, and has KV formats and number formats of
    its own.
    """

    STOCK = "stock"
    BITBUDGET = "bitbudget"


def offered_formats(runtime: Runtime) -> tuple[Format, ...]:
    """Return the formats that a checkpoint for `runtime` may have."""
    return ALL_FORMATS if runtime is Runtime.BITBUDGET else STOCK_FORMATS


def measured_formats(runtime: Runtime) -> tuple[Format, ...]:
    """Return the formats in which a model is measured, so that any budget can be answered.

    Those of our own runtime take about half as long again, and are measured where it is meant.
    """
    return offered_formats(runtime)
