"""The loss has the gradient of the plain formula."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from bitbudget.workers.recovery.divergence import cross_entropy


def test_the_gradient_is_that_of_kl() -> None:
    logits = mx.random.normal((2, 5, 11), key=mx.random.key(0))
    target = mx.softmax(mx.random.normal((2, 5, 11), key=mx.random.key(1)), axis=-1)

    def divergence(logits: mx.array) -> mx.array:
        log_q = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        result: mx.array = (target * (mx.log(target) - log_q)).sum(-1).mean()
        return result

    def tripled(logits: mx.array) -> mx.array:
        loss: Any = cross_entropy(logits, target)
        result: mx.array = 3 * loss
        return result

    ours = mx.grad(tripled)(logits)
    assert mx.allclose(ours, 3 * mx.grad(divergence)(logits), atol=1e-7)
    entropy = -(target * mx.log(target)).sum(-1).mean()
    assert mx.allclose(tripled(logits) / 3 - entropy, divergence(logits), atol=1e-5)
