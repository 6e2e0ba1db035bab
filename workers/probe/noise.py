"""Sensitivity by forward passes only: Gaussian noise on one module at a time.

As HIGGS does (arXiv 2411.17525, section 5): KL is linear in the relative squared error, so a fit
through the origin at two levels of noise gives alpha. No gradient is needed, and what a gradient
neglects is seen, at two passes per module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import mlx.core as mx

from bitbudget.workers.evaluate import Evaluator
from bitbudget.workers.models.chat import chat_of
from bitbudget.workers.running.tokens import sample_tokens

__all__ = ["LEVELS", "PROBE_TOKENS", "probe_alphas"]

LEVELS: Final = (0.003, 0.01)
"""t2 of the noise: between 4 and 5 bits."""
_ROLLOUTS: Final = 4
_SEED: Final = 0x9803
PROBE_TOKENS: Final = _ROLLOUTS * 255


def probe_alphas(
    folder: Path,
    paths: Sequence[str],
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Return alpha, in nats per token per unit of t2, of the modules at `paths`.

    The model in `folder` is held in float32; KL is measured on text it writes itself.
    """
    text = sample_tokens(folder, _ROLLOUTS, seed=seed + _SEED, chat=chat_of(folder))
    evaluation = Evaluator(folder, windows=text, seed=seed)
    evaluation.taught  # noqa: B018 - the original's pass comes before its weights are changed
    modules = dict(evaluation.original.named_modules())
    alphas = {}
    for index, path in enumerate(paths):
        module, weight = modules[path], modules[path].weight
        noise = mx.random.normal(weight.shape, key=mx.random.key(seed * 1_000_003 + index))
        noise = noise * mx.rsqrt(mx.square(noise).mean()) * mx.sqrt(mx.square(weight).mean())
        costs = []
        for level in LEVELS:
            module.weight = weight + level**0.5 * noise
            report = evaluation.sets(evaluation.original, f"noise on {path}")["windows"]
            costs.append(report["kl_nats_per_token"])
        module.weight = weight
        products = (level * cost for level, cost in zip(LEVELS, costs, strict=True))
        alphas[path] = max(sum(products) / sum(level**2 for level in LEVELS), 0.0)
        if progress is not None:
            progress(index + 1, len(paths))
    return alphas
