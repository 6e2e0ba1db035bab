"""Distillation steps: forward KL on rollouts of the original, the best state on others kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import optimizers
from mlx.utils import tree_map

from workers.evaluate import Evaluation
from workers.evaluate.teacher import log_probabilities
from workers.fisher import load_float32, sample_tokens
from workers.recovery.student import Grids, Latents, Student

__all__ = ["Training"]

GRID_RATE: Final = 2e-3
"""Of AdamW on scales and biases, relative to the scale."""
WEIGHT_RATE: Final = 2e-3
"""Of Muon on weights, in scales: what one step moves each weight by, root mean square."""
_WARM_UP_STEPS: Final = 10
_CACHED_BYTES: Final = 1 << 29
"""The original's predictions are kept up to this size, and made again for each batch above."""
_DECAY_STEPS: Final = 400
_BATCH: Final = 4
_SEQUENCES: Final = 64
_HELD_OUT: Final = 8
_EVERY: Final = 10
"""Steps between two looks at the rollouts that are not trained on."""
_SEED: Final = 0xD15711
_PATIENCE: Final = 4


def _schedule(rate: float) -> Callable[[mx.array], mx.array]:
    warm = optimizers.linear_schedule(rate / _WARM_UP_STEPS, rate, _WARM_UP_STEPS)
    decay = optimizers.cosine_decay(rate, _DECAY_STEPS, rate / 10)
    schedule: Callable[[mx.array], mx.array] = optimizers.join_schedules(
        [warm, decay], [_WARM_UP_STEPS]
    )
    return schedule


class Training:
    """One student on its way; `weights` says whether the codes are trained, too."""

    def __init__(self, checkpoint: Path, reference: Path, *, weights: bool, seed: int) -> None:
        self.student = Student(checkpoint)
        self.tokens = sample_tokens(reference, _SEQUENCES, seed=seed + _SEED)
        self.judge = Evaluation(reference, rollouts=_HELD_OUT, seed=seed + _SEED)
        self.teacher = load_float32(reference)
        self.grids: Grids = self.student.grids()
        self.latents: Latents | None = self.student.latents() if weights else None
        self.kept: tuple[Grids, Latents | None] = (self.grids, self.latents)
        self.adam = optimizers.AdamW(
            learning_rate=_schedule(GRID_RATE), weight_decay=0.0, bias_correction=True
        )
        self.muon = optimizers.Muon(learning_rate=_schedule(WEIGHT_RATE), weight_decay=0.0)
        self.targets: dict[int, mx.array] = {}
        self.steps, self.stale = 0, 0
        self.first = self.best = self._held_out()
        self.gradient = mx.value_and_grad(self._loss, argnums=(0, 1) if weights else 0)

    def goes_on(self) -> bool:
        """Whether the last looks still found something better."""
        return self.stale < _PATIENCE

    def step(self) -> None:
        """Take one step on the next batch of rollouts; a loss that is not finite ends it all."""
        start = self.steps * _BATCH % (len(self.tokens) - _BATCH + 1)
        ids = self.tokens[start : start + _BATCH]
        target = self._target(start, ids)
        loss, gradients = self.gradient(self.grids, self.latents, mx.array(ids), target)
        if not bool(mx.isfinite(loss)):
            self.stale = _PATIENCE
            return
        self._update(gradients)
        self.steps += 1
        if self.steps % _EVERY == 0:
            self.look()

    def _target(self, start: int, ids: np.ndarray) -> mx.array:
        """Return the original's log-probabilities on a batch, kept where they are small."""
        if start in self.targets:
            return self.targets[start]
        target = mx.stop_gradient(log_probabilities(self.teacher, ids, "reference"))
        if target.nbytes * len(self.tokens) / _BATCH <= _CACHED_BYTES:
            self.targets[start] = target
        return target

    def _update(self, gradients: Any) -> None:
        if self.latents is None:
            self.grids = self.adam.apply_gradients(gradients, self.grids)
        else:
            self.grids = self.adam.apply_gradients(gradients[0], self.grids)
            self.latents = self.muon.apply_gradients(gradients[1], self.latents)
        mx.eval(self.grids, self.latents, self.adam.state, self.muon.state)

    def look(self) -> None:
        """Keep the parameters if they are the best so far on rollouts not trained on."""
        found = self._held_out()
        self.stale += 1
        if found < self.best:
            self.best, self.stale = found, 0
            self.kept = tree_map(lambda array: array, (self.grids, self.latents))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the best parameters as stored arrays by name."""
        return self.student.arrays(*self.kept)

    def _loss(
        self, grids: Grids, latents: Latents | None, ids: mx.array, target: mx.array
    ) -> mx.array:
        logits = self.student.apply(grids, latents)(ids)[:, :-1]
        log_q = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        loss: mx.array = (mx.exp(target) * (target - log_q)).sum(-1).mean()
        return loss

    def _held_out(self) -> float:
        model = self.student.apply(self.grids, self.latents, stored=True)
        report = self.judge.sets(model, "student")["rollouts"]
        return float(report["kl_nats_per_token"])
