"""What MLX computes on in this process."""

from __future__ import annotations

import mlx.core as mx

__all__ = ["on_gpu"]


def on_gpu() -> bool:
    """Return whether MLX computes on a GPU unless told otherwise."""
    return bool(mx.default_device() == mx.Device(mx.gpu))
