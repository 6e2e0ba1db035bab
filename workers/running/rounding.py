"""What an engine with integer products reads: activations rounded in groups of channels."""

from __future__ import annotations

import math
from typing import Final

import mlx.core as mx
import numpy as np

from bitbudget.app.core.activations import ActivationFormat
from bitbudget.rotated_model import BLOCK, hadamard

__all__ = ["rounded"]

_SIGNS_SEED: Final = 0x516E


def rounded(x: mx.array, format_: ActivationFormat, *, rotate: bool = False) -> mx.array:
    """Return `x` (..., channels) as it comes back from the integers of `format_`.

    With `rotate` it is rounded behind a random Hadamard transform of blocks of 32 and turned back.
    """
    if rotate and x.shape[-1] % BLOCK == 0:
        return _turned(rounded(_turned(x, forth=True), format_), forth=False)
    width = x.shape[-1]
    padded = mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -width % format_.group_size)])
    groups = padded.reshape(*x.shape[:-1], -1, format_.group_size)
    scale = mx.abs(groups).max(axis=-1, keepdims=True) / format_.levels
    safe = mx.where(scale > 0, scale, 1)
    back = (mx.round(groups / safe) * scale).reshape(padded.shape)
    return back[..., :width]


def _turned(x: mx.array, *, forth: bool) -> mx.array:
    """Return x S H, or with `forth` false H S of it: S random signs, H symmetric, orthogonal."""
    signs = np.random.default_rng(_SIGNS_SEED).choice([-1.0, 1.0], x.shape[-1])
    s, h = mx.array(signs.astype(np.float32)), hadamard() / math.sqrt(BLOCK)
    if forth:
        return ((x * s).reshape(-1, BLOCK) @ h).reshape(x.shape)
    return (x.reshape(-1, BLOCK) @ h).reshape(x.shape) * s
