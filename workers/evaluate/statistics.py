"""Means with intervals: a paired bootstrap over windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from bitbudget.app.core.canonical import JsonObject
from bitbudget.workers.evaluate.teacher import TokenScores

__all__ = ["RESAMPLES", "compare", "interval_95", "summary"]

RESAMPLES: Final = 10_000


def interval_95(per_window: np.ndarray, *, seed: int) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean over windows, B = 10,000.

    The resamples depend on the seed and the number of windows only, so two candidates on the same
    windows meet the same resamples.
    """
    means = _resamples(len(per_window), seed) @ per_window
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _resamples(count: int, seed: int) -> np.ndarray:
    """Return (B, count) weights of the windows in each resample, rows summing to one."""
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    weights: np.ndarray = draws / count
    return weights


def compare(ours: Mapping[str, Any], other: Mapping[str, Any], *, seed: int = 0) -> JsonObject:
    """Compare two reports of `evaluate` on the same windows, on the same resamples.

    Returns the difference and the ratio of mean KL (ours against other) with 95 % intervals.
    ValueError when the reports are of different windows.
    """
    if ours["windows_digest"] != other["windows_digest"]:
        raise ValueError("the reports were made on different windows")
    a = np.asarray(ours["kl_per_window"], np.float64)
    b = np.asarray(other["kl_per_window"], np.float64)
    weights = _resamples(len(a), seed)
    means_a, means_b = weights @ a, weights @ b
    ratio = means_a / np.maximum(means_b, 1e-30)
    return {
        "difference_nats_per_token": float(a.mean() - b.mean()),
        "difference_interval_95": np.percentile(means_a - means_b, (2.5, 97.5)).tolist(),
        "ratio": float(a.mean() / max(b.mean(), 1e-30)),
        "ratio_interval_95": np.percentile(ratio, (2.5, 97.5)).tolist(),
    }


def summary(scores: TokenScores, *, seed: int) -> JsonObject:
    """Return the numbers of a report for one set of windows."""
    kl = scores.kl
    per_window = kl.mean(axis=1)
    loss = scores.candidate_loss.mean() - scores.reference_loss.mean()
    return {
        "kl_nats_per_token": float(kl.mean()),
        "kl_interval_95": list(interval_95(per_window, seed=seed)),
        "kl_median": float(np.median(kl)),
        "kl_p90": float(np.percentile(kl, 90)),
        "kl_p99": float(np.percentile(kl, 99)),
        "kl_max": float(kl.max()),
        "top1_agreement": float(scores.agree.mean()),
        "expected_acceptance_rate": float(scores.overlap.mean()),
        "perplexity_ratio": float(np.exp(loss)),
        "reference_perplexity": float(np.exp(scores.reference_loss.mean())),
        "tokens": int(kl.size),
        "windows": len(kl),
        "kl_per_window": per_window.tolist(),
    }
