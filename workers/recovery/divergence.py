"""The loss of distillation: cross-entropy against the original, whose gradient is KL's."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from bitbudget.workers.running.numpy_functions import softmax

__all__ = ["cross_entropy"]


@mx.custom_function
def cross_entropy(logits: mx.array, target: mx.array) -> mx.array:
    """Return the mean over tokens of -sum(p log q), which is KL(p || q) plus p's entropy.

    `logits` and the probabilities `target` are float32 (..., vocabulary). With its own gradient,
    softmax(logits) - p, a step takes one exponential of each logit and not three.
    """
    loss: mx.array = (mx.logsumexp(logits, axis=-1) - (target * logits).sum(-1)).mean()
    return loss


@cross_entropy.vjp
def _gradient(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, _output: Any
) -> tuple[mx.array, mx.array]:
    logits, target = primals
    share = cotangent / (logits.size // logits.shape[-1])
    return (softmax(logits) - target) * share, mx.zeros_like(target)
