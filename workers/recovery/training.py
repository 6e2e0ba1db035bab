"""Distillation steps: forward KL on rollouts of the original, the best state on others kept."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import optimizers
from mlx.utils import tree_flatten, tree_map, tree_map_with_path

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.evaluate import Evaluator
from bitbudget.workers.recovery.by_layers import StreamedStudent, layer_gradients
from bitbudget.workers.recovery.divergence import cross_entropy
from bitbudget.workers.recovery.rollouts import Rollouts
from bitbudget.workers.recovery.student import Student, Values
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.numpy_functions import by_numpy
from bitbudget.workers.running.streaming_forward import Forward, Unheld

__all__ = ["Training"]

VALUE_RATE: Final = 1.2e-2
"""Of AdamW on scales, biases and floats, in rounding errors a step (`Values`); the highest."""
FIRST_SHARE: Final = 0.25
"""Of the rate at first: the more layers and groups move at once, the less each may."""
_FORTH: Final = 1.5
"""What the rate rises by at a look that found something better."""
ROWS: Final = 2
"""Sequences of a step: more steps are worth more than quieter gradients."""
LOOKS: Final = 12
PATIENCE: Final = 4
"""Looks in a row without anything better after which the training ends."""
_BETAS: Final = (0.9, 0.98)
"""Of AdamW; the second is for trainings of a hundred steps."""
_BACK: Final = 0.5
"""What the rate falls by at a look that found nothing better."""
_WARM_UP_STEPS: Final = 10
AVERAGED: Final = 16.0
"""Steps are averaged with weights that grow by this power: the last 6 % count most."""
_GROWING: Final = 0.8
"""Share of the time after which no more rollouts are written."""
_HELD_OUT: Final = 16
_TREES: Final = ("values", "mean", "kept")
_NUMBERS: Final = ("steps", "looked", "stale", "share", "first", "best", "look_seconds")
_SEED: Final = 0xD15711


class Training:
    """One student on its way; `streamed` with a layer's weights in memory at a time."""

    def __init__(
        self, checkpoint: Path, reference: Path, *, seed: int, streamed: bool = False
    ) -> None:
        self.judge = Evaluator(reference, rollouts=_HELD_OUT, seed=seed + _SEED)
        original = load_float32(reference) if streamed else self.judge.original
        self.student = Student(checkpoint, original, whole=not streamed)
        self.values: Values = self.student.values()
        self.kept = self.mean = self.values
        self.adam = optimizers.AdamW(
            VALUE_RATE, betas=list(_BETAS), weight_decay=0.0, bias_correction=True
        )
        self.steps, self.looked, self.stale = 0, 0, 0
        self.finite, self.share = True, FIRST_SHARE
        self.judge.taught  # noqa: B018 - so that the first look takes as long as the others
        if streamed:
            self.judge.release()
        self.look_seconds = 0.0
        self.first = self.best = self._held_out()
        self.rollouts: Rollouts | None = None
        self._reference, self._seed = reference, seed + _SEED

    @property
    def trainable(self) -> bool:
        """Whether the checkpoint holds anything that could be trained."""
        return bool(self.student.stored or self.student.floats)

    def prepare(self) -> Rollouts:
        """Return the rollouts to train on, the first of them written."""
        if self.rollouts is None:
            self.rollouts = self._rollouts(None)
        return self.rollouts

    def _rollouts(self, state: tuple[np.ndarray, JsonObject] | None) -> Rollouts:
        whole = self.judge.original if self.student.whole else None
        original = Unheld(self._reference) if whole is None else whole
        return Rollouts(
            original, self._reference, rows=ROWS, seed=self._seed, writer=whole, state=state
        )

    def step(self, spent: float) -> None:
        """Take one step when `spent`, a share of the time, is gone; NaN gradients end it all."""
        ids, target = self.prepare().next(grow=spent < _GROWING)
        gradients = self._gradients(ids, target)
        self.finite = _finite(gradients)
        if self.finite:
            self._update(gradients, self._rate(spent))
            self.steps += 1

    def _rate(self, spent: float) -> float:
        """Return the share of the full rates: a short rise, then half a cosine over the time."""
        rise = min(1.0, (self.steps + 1) / _WARM_UP_STEPS)
        return rise * (1 + math.cos(math.pi * min(spent, 1.0))) / 2

    def _update(self, gradients: Any, rate: float) -> None:
        self.adam.learning_rate = mx.array(VALUE_RATE * self.share * rate)
        self.values = self.adam.apply_gradients(gradients, self.values)
        share = (AVERAGED + 1) / (self.steps + 1 + AVERAGED)
        self.mean = _between(self.mean, self.values, share)
        mx.eval(self.values, self.mean, self.adam.state)

    def look(self) -> None:
        """Keep the average of the last values if it is the best on rollouts not trained on.

        Then go on with a higher rate; if it is not, go on from the best with a lower one.
        """
        found, self.looked = self._held_out(), self.steps
        if found < self.best:
            self.best, self.stale = found, 0
            self.kept = self.mean
            self.share = min(1.0, self.share * _FORTH)
        else:
            self.stale += 1
            self.share *= _BACK
            self.values = self.mean = self.kept

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the best parameters as stored arrays by name."""
        return self.student.arrays(self.kept)

    def state(self) -> tuple[JsonObject, JsonObject]:
        """Return arrays and numbers that `resume` goes on from."""
        rollouts = self.prepare()
        arrays = {name: getattr(self, name) for name in _TREES}
        tokens = mx.array(rollouts.tokens)
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return (
            {**arrays, "adam": self.adam.state, "tokens": tokens},
            {**numbers, "rollouts": rollouts.state()},
        )

    def resume(self, arrays: dict[str, mx.array], numbers: JsonObject) -> None:
        """Go on from a state, whose arrays are given by their dotted places."""
        self.adam.init(self.values)
        for name in _TREES:
            setattr(self, name, _filled(name, getattr(self, name), arrays))
        self.adam.state = _filled("adam", self.adam.state, arrays)
        for name in _NUMBERS:
            setattr(self, name, numbers[name])
        self.rollouts = self._rollouts((np.array(arrays["tokens"]), numbers["rollouts"]))

    def _gradients(self, ids: mx.array, target: mx.array) -> Values:
        if not self.student.whole:
            return layer_gradients(self.student, self.values, ids, target)
        with by_numpy():
            found: Values = mx.grad(self._loss)(self.values, ids, target)
        return found

    def _loss(self, values: Values, ids: mx.array, target: mx.array) -> mx.array:
        loss: Any = cross_entropy(self.student.apply(values)(ids), target)
        return loss  # type: ignore[no-any-return]

    def _held_out(self) -> float:
        """Return nats per token; infinite where the student's predictions are not finite."""
        began = time.monotonic()
        model: Forward
        if self.student.whole:
            model = self.student.apply(self.mean, stored=True)
        else:
            model = StreamedStudent(self.student, self.mean)
        try:
            report = self.judge.sets(model, "student")["rollouts"]
        except InvalidModelError:
            if self.steps == 0:
                raise
            return math.inf
        self.look_seconds = time.monotonic() - began
        return float(report["kl_nats_per_token"])


def _filled(name: str, tree: Any, arrays: dict[str, mx.array]) -> Any:
    """Return `tree`, whose place is `name`, with arrays of the same places."""
    return tree_map_with_path(lambda place, _: arrays[f"{name}.{place}"], tree)


def _between(old: Any, new: Any, share: float) -> Any:
    """Return the tree that is `share` of the way from `old` to `new`."""
    return tree_map(lambda a, b: a + share * (b - a), old, new)


def _finite(gradients: Any) -> bool:
    arrays: dict[str, mx.array] = dict(tree_flatten(gradients))
    return bool(mx.isfinite(mx.stack([array.sum() for array in arrays.values()])).all())
