"""Is the rotated model still the same model, and which channels must be left alone."""

from __future__ import annotations

from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import nn

from metal_kernels.blocks import BLOCK
from workers.rotate.passing import Load, Logits, Tokens, logits_of
from workers.rotate.structure import Structure

__all__ = ["MASSIVE_RATIO", "mean_kl", "noise_floor", "observe"]

MASSIVE_RATIO: Final = 100.0
"""A channel whose largest magnitude exceeds the median channel's by this factor is massive."""


class _Recorder(nn.Module):
    """A norm that remembers the largest magnitude of each channel of what it is given."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.norm = norm
        self.largest: list[mx.array] = []

    def __call__(self, x: mx.array) -> mx.array:
        peak = mx.abs(x.astype(mx.float32)).max(axis=tuple(range(x.ndim - 1)))
        mx.eval(peak)
        self.largest.append(peak)
        result: mx.array = self.norm(x)
        return result


def observe(load: Load, structure: Structure, tokens: Tokens) -> tuple[Logits, frozenset[int]]:
    """Return the logits on `tokens` and the blocks of 32 residual channels to leave alone.

    These hold a massive activation. Massive Activations in Large Language Models (arXiv
    2402.17762): a few fixed channels reach hundreds of times the rest; spread over a block they
    would drown it in bf16 rounding.
    """
    recorders: list[_Recorder] = []

    def record(norm: nn.Module) -> _Recorder:
        recorders.append(_Recorder(norm))
        return recorders[-1]

    logits = logits_of(load, tokens, structure.norms, record)
    peaks = [peak for recorder in recorders for peak in recorder.largest]
    per_norm = np.array(mx.stack(peaks))
    ratio = (per_norm / np.median(per_norm, axis=1, keepdims=True).clip(1e-30)).max(axis=0)
    massive = np.flatnonzero(ratio > MASSIVE_RATIO)
    return logits, frozenset(int(channel) // BLOCK for channel in massive)


class _Rounder(nn.Module):
    """A norm whose input and output are rounded to bfloat16, as in a bfloat16 computation."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.norm = norm

    def __call__(self, x: mx.array) -> mx.array:
        result: mx.array = self.norm(x.astype(mx.bfloat16).astype(x.dtype))
        return result.astype(mx.bfloat16).astype(x.dtype)


def noise_floor(reference: Logits, load: Load, structure: Structure, tokens: Tokens) -> float:
    """Return KL in nats per token of the same model computed in bfloat16.

    Where MLX has no bfloat16 gather (stacked experts on a CPU), only what the norms read and write
    is rounded to bfloat16.
    """

    def narrow() -> nn.Module:
        model = load()
        model.set_dtype(mx.bfloat16)
        return model

    if any(type(module).__name__ == "SwitchLinear" for module in load().modules()):
        return mean_kl(reference, logits_of(load, tokens, structure.norms, _Rounder))
    return mean_kl(reference, logits_of(narrow, tokens))


def mean_kl(reference: Logits, candidate: Logits) -> float:
    """Return KL(reference || candidate) in nats per token, in float64."""
    totals = []
    for left, right in zip(reference, candidate, strict=True):
        log_p, log_q = _log_softmax(left), _log_softmax(right)
        totals.append(float((np.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean()))
    return float(np.mean(totals))


def _log_softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    result: np.ndarray[Any, np.dtype[np.float64]] = wide - np.log(
        np.exp(wide).sum(axis=-1, keepdims=True)
    )
    return result
