"""Is the rotated model still the same model, and which channels must be left alone."""

from __future__ import annotations

from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import nn

from metal_kernels.blocks import BLOCK
from workers.rotate.structure import Structure

__all__ = [
    "MASSIVE_RATIO",
    "Logits",
    "Tokens",
    "logits_of",
    "massive_blocks",
    "mean_kl",
    "noise_floor",
]

MASSIVE_RATIO: Final = 100.0
"""A channel whose largest magnitude exceeds the median channel's by this factor is massive."""

Tokens = np.ndarray[Any, np.dtype[np.int32]]
Logits = list[np.ndarray[Any, np.dtype[np.float32]]]


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


def _parent(model: nn.Module, path: str) -> tuple[Any, str]:
    module: Any = model
    *parts, name = path.split(".")
    for part in parts:
        module = module[int(part)] if isinstance(module, list) else module[part]
    return module, name


def massive_blocks(model: nn.Module, structure: Structure, tokens: Tokens) -> frozenset[int]:
    """Return the blocks of 32 residual channels that hold a massive activation on `tokens`.

    Massive Activations in Large Language Models (arXiv 2402.17762): a few fixed channels reach
    hundreds of times the rest; spread over a block they would drown it in bf16 rounding.
    """
    recorders = []
    paths = [path for layer in structure.layers for path in _norms(layer)]
    for path in (*paths, structure.final_norm):
        parent, name = _parent(model, path)
        recorder = _Recorder(parent[name])
        parent[name] = recorder
        recorders.append((parent, name, recorder))
    for row in tokens:
        mx.eval(model(mx.array(row)[None]))
    peaks = mx.stack([peak for _, _, recorder in recorders for peak in recorder.largest])
    for parent, name, recorder in recorders:
        parent[name] = recorder.norm
    per_layer = np.array(peaks)
    ratio = (per_layer / np.median(per_layer, axis=1, keepdims=True).clip(1e-30)).max(axis=0)
    return frozenset(int(channel) // BLOCK for channel in np.flatnonzero(ratio > MASSIVE_RATIO))


class _Rounder(nn.Module):
    """A norm whose input and output are rounded to bfloat16, as in a bfloat16 computation."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.norm = norm

    def __call__(self, x: mx.array) -> mx.array:
        result: mx.array = self.norm(x.astype(mx.bfloat16).astype(x.dtype))
        return result.astype(mx.bfloat16).astype(x.dtype)


def noise_floor(
    reference: Logits, rounded: nn.Module, structure: Structure, tokens: Tokens
) -> float:
    """Return KL in nats per token of the same model computed in bfloat16; uses up `rounded`.

    Where MLX has no bfloat16 gather (stacked experts on a CPU), only what the norms read and write
    is rounded to bfloat16.
    """
    if all(type(module).__name__ != "SwitchLinear" for module in rounded.modules()):
        rounded.set_dtype(mx.bfloat16)
        return mean_kl(reference, rounded, tokens)
    for layer in structure.layers:
        for path in _norms(layer):
            parent, name = _parent(rounded, path)
            parent[name] = _Rounder(parent[name])
    return mean_kl(reference, rounded, tokens)


def _norms(layer: Any) -> tuple[str, str]:
    return layer.attention_norm, layer.feed_forward_norm


def logits_of(model: nn.Module, tokens: Tokens) -> Logits:
    """Return float32 logits (length, vocabulary) of each row of `tokens`."""
    found = []
    for row in tokens:
        logits = model(mx.array(row)[None])[0].astype(mx.float32)
        found.append(np.array(logits))
    return found


def mean_kl(reference: Logits, candidate: nn.Module, tokens: Tokens) -> float:
    """Return KL(reference || candidate) in nats per token, in float64."""
    totals = []
    for row, left in zip(tokens, reference, strict=True):
        log_p, log_q = _log_softmax(left), _log_softmax(logits_of(candidate, row[None])[0])
        totals.append(float((np.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean()))
    return float(np.mean(totals))


def _log_softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    result: np.ndarray[Any, np.dtype[np.float64]] = wide - np.log(
        np.exp(wide).sum(axis=-1, keepdims=True)
    )
    return result
