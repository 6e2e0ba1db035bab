"""What the diagonal of B leaves out of the cost of a head, which has too many outputs for all of B.

    python -m bitbudget.workers.native.preload -m benchmarks.head MODEL [CHECKPOINT ...]

A head's error E moves the logits of a token with hidden state x by d = E x. To second order that
costs half the variance of d under the token's probabilities p: 1/2 (sum_v p_v d_v^2 - (sum_v p_v
d_v)^2) nats. Beside the mean of it over tokens that the model writes stand what is left without the
products of two outputs, 1/2 sum_v p_v (1 - p_v) d_v^2, and that with the means of p (1 - p) and of
x x^T in place of their product, as curves have it. E is of the head, tied or not, of each
CHECKPOINT, and of codes by weights alone in `--formats`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx import nn

from bitbudget.app.core.encoders import Encoder
from bitbudget.app.core.formats import parse_format
from bitbudget.workers.encoders.number_formats import dequantize
from bitbudget.workers.encoders.registry import encode
from bitbudget.workers.evaluate.windows import rollout_windows
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.native.arrays import from_float32
from bitbudget.workers.running.float32 import load_float32

_SEED = 1
"""Of the windows: no job of seed 0 was measured on them."""
_AT_ONCE = 256


def main() -> None:
    """Print a line for each way to code the head."""
    options = _options()
    model = load_float32(options.model)
    weight = _head(model)
    hidden = [
        _hidden(model, row) for row in rollout_windows(options.model, options.windows, seed=_SEED)
    ]
    states = np.concatenate(hidden)
    del model
    print("| head | exact | without products of two outputs | as curves have it |")
    print("|---|---|---|---|")
    for name, error in _errors(options, weight):
        exact, diagonal, separate = costs(weight, error, states)
        print(
            f"| {name} | {exact:.4f} | {diagonal:.4f} ({diagonal / exact:.2f})"
            f" | {separate:.4f} ({separate / exact:.2f}) |",
            flush=True,
        )


def costs(weight: np.ndarray, error: np.ndarray, states: np.ndarray) -> tuple[float, float, float]:
    """Return nats per token: exact, without products of two outputs, and as curves have it.

    `weight` and `error` are (out, in), `states` (tokens, in).
    """
    exact = diagonal = 0.0
    rows = np.zeros(len(weight))
    for first in range(0, len(states), _AT_ONCE):
        some = states[first : first + _AT_ONCE]
        logits = some @ weight.T
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        moved = some @ error.T
        exact += float((p * moved**2).sum() - ((p * moved).sum(axis=1) ** 2).sum())
        single = p * (1 - p)
        diagonal += float((single * moved**2).sum())
        rows += single.sum(axis=0)
    by_row = ((error @ (states.T @ states / len(states))) * error).sum(axis=1)
    twice = 2 * len(states)
    return exact / twice, diagonal / twice, float(rows @ by_row) / twice


def _errors(options: argparse.Namespace, weight: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    inventory = build_inventory(open_checkpoint(options.model))
    dtype = inventory.modules[0].dtype
    for name in options.formats:
        format_ = parse_format(name)
        codes = encode(from_float32(weight, dtype), dtype, format_, Encoder.CAREFUL)
        yield f"{name}, `careful`", dequantize(codes, format_, dtype) - weight
    for folder in options.checkpoints:
        yield folder.name, _head(load_float32(folder)) - weight


def _head(model: nn.Module) -> np.ndarray:
    module = model.lm_head if "lm_head" in model else model.model.embed_tokens
    return np.array(module.weight, np.float32)


def _hidden(model: nn.Module, ids: np.ndarray) -> np.ndarray:
    states: np.ndarray = np.array(model.model(mx.array(ids[None])), np.float32)[0]
    return states


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--formats", nargs="*", default=("affine4g64", "affine3g64"))
    parser.add_argument("--windows", type=int, default=12, help="of 256 tokens of the model's own")
    return parser.parse_args()


if __name__ == "__main__":
    main()
