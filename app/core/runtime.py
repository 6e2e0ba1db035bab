"""Which program runs a checkpoint: what it can load, and what it needs beside the weights."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Runtime"]


class Runtime(StrEnum):
    """The loader that a result is made for.

    `stock` is mlx-lm as it is. `bitbudget` is mlx-lm with models opened by `bitbudget.load`, which
    attends over quantized caches without holding scores and has KV formats of its own.
    """

    STOCK = "stock"
    BITBUDGET = "bitbudget"
