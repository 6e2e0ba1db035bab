"""The KL that rounding the inputs of single modules costs, from one backward pass.

Rounding errors of tokens are independent, so KL ~ 1/2 E sum_t (g_t . dy_t)^2 per token, with
dy = W dx the error of the module's output and g the gradient of the log-loss of labels drawn from
the model with respect to that output: dx^T W^T B W dx with B = E[g g^T] of the very tokens that
the errors are of.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import mlx.core as mx
import numpy as np
from mlx import nn

from bitbudget.app.core.activations import ActivationFormat
from bitbudget.rotated_model import RotatedLinear
from bitbudget.workers.fisher.passes import sampled_slope
from bitbudget.workers.running.rounding import rounded
from bitbudget.workers.running.taps import Call, Tape, backward, tapped

__all__ = ["input_costs"]


def input_costs(
    model: nn.Module,
    windows: np.ndarray,
    paths: Collection[str],
    format_: ActivationFormat,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[str, tuple[float, float]]:
    """Return by module the KL in nats per token of rounding its inputs alone.

    First as they are, second behind a random Hadamard transform. `windows` are token ids, int32
    (sequences, length), text of the model; a sequence is held with its gradients at a time.
    """
    sums: dict[str, np.ndarray] = {}
    modules = dict(model.named_modules())
    tape = Tape()
    with tapped(model, "", tape):
        for number, ids in enumerate(windows):
            key = mx.random.key(seed * 1_000_003 + number)
            for call, gradient in _pulled(model, ids[None], key, tape):
                if call.path in paths and not call.is_lookup:
                    cost = _cost(modules[call.path], call, gradient, format_)
                    sums[call.path] = sums.get(call.path, np.zeros(2)) + cost
            progress(number + 1, len(windows))
    return {path: (float(both[0]), float(both[1])) for path, both in _mean(sums, windows).items()}


def _mean(sums: Mapping[str, np.ndarray], windows: np.ndarray) -> dict[str, np.ndarray]:
    return {path: both / (2 * windows.size) for path, both in sums.items()}


def _pulled(
    model: nn.Module, ids: np.ndarray, key: mx.array, tape: Tape
) -> list[tuple[Call, mx.array]]:
    tokens = mx.array(ids)

    def forward(unused: mx.array) -> mx.array:
        logits: mx.array = model(tokens).astype(mx.float32) + 0 * unused
        return logits

    tape.rewind(())
    slope = sampled_slope(model(tokens).astype(mx.float32), key)
    mx.eval(slope)
    return list(backward(forward, mx.zeros(1), slope, tape).calls)


def _cost(
    module: nn.Module, call: Call, gradient: mx.array, format_: ActivationFormat
) -> np.ndarray:
    """Return sum_t (g_t . W dx_t)^2 without and with a rotation."""
    found = []
    for rotate in (False, not isinstance(module, RotatedLinear)):
        error = rounded(call.inputs, format_, rotate=rotate) - call.inputs
        moved = (gradient * _product(module, error, call.indices)).sum(axis=-1)
        found.append(mx.square(moved).sum())
    return np.array([float(one) for one in found])


def _product(module: nn.Module, x: mx.array, indices: mx.array | None) -> mx.array:
    weight: mx.array = module["weight"]
    if indices is None:
        return x @ weight.T
    return mx.gather_mm(x, weight.swapaxes(-1, -2), rhs_indices=indices)
