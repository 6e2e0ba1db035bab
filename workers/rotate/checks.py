"""Is the rotated model still the same model, and which channels must be left alone."""

from __future__ import annotations

from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_lm.models.switch_layers import SwitchLinear

from bitbudget.metal_kernels.blocks import BLOCK
from bitbudget.workers.rotate.streamed_logits import Load, Logits, Tokens, logits_of
from bitbudget.workers.rotate.structure import Structure

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


class _WideExperts(SwitchLinear):
    """Stacked experts of bfloat16 on a CPU, where MLX gathers float32 only: rounded afterwards."""

    def __call__(
        self,
        x: mx.array,
        indices: mx.array,
        sorted_indices: bool = False,  # noqa: FBT001, FBT002, as in mlx-lm
    ) -> mx.array:
        narrow, wide = self.weight, x.astype(mx.float32)
        self.weight = narrow.astype(mx.float32)
        result: mx.array = super().__call__(wide, indices, sorted_indices)  # type: ignore[no-untyped-call]
        self.weight = narrow
        return result.astype(x.dtype)


def noise_floor(reference: Logits, load: Load, tokens: Tokens) -> float:
    """Return KL in nats per token of the same model computed in bfloat16."""

    def narrow() -> nn.Module:
        model = load()
        model.set_dtype(mx.bfloat16)
        for module in () if mx.metal.is_available() else model.modules():
            if type(module) is SwitchLinear:
                module.__class__ = _WideExperts
        return model

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
