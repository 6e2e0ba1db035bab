"""Which program runs a checkpoint: what it can load, and what it needs beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from bitbudget.app.core.formats import AFFINE_FORMATS, ALL_FORMATS, KEEP, STOCK_FORMATS, Format

__all__ = ["Runtime", "measured_formats", "offered_formats"]


class Runtime(StrEnum):
    """The loader that a result is made for.

    `stock` is mlx-lm as it is. `bitbudget` is mlx-lm with models opened by `bitbudget.load`, which
    attends over quantized caches without holding scores, and has KV formats and number formats of
    its own. `uzu` is Mirai's engine, whose converter lalamo reads checkpoints of mlx-lm.
    """

    STOCK = "stock"
    BITBUDGET = "bitbudget"
    UZU = "uzu"


_UZU_BITS: Final = (4, 8)
"""Widths that lalamo 0.17 tells from the shapes of MLX's arrays and uzu has kernels for."""
_OFFERED: Final[Mapping[Runtime, tuple[Format, ...]]] = {
    Runtime.STOCK: STOCK_FORMATS,
    Runtime.BITBUDGET: ALL_FORMATS,
    Runtime.UZU: tuple(f for f in (*AFFINE_FORMATS, KEEP) if f == KEEP or f.bits in _UZU_BITS),
}


def offered_formats(runtime: Runtime) -> tuple[Format, ...]:
    """Return the formats that a checkpoint for `runtime` may have."""
    return _OFFERED[runtime]


def measured_formats(runtime: Runtime) -> tuple[Format, ...]:
    """Return the formats in which a model is measured, so that any budget can be answered.

    Those of our own runtime make measuring longer, and are measured where it is meant.
    """
    return ALL_FORMATS if runtime is Runtime.BITBUDGET else STOCK_FORMATS
