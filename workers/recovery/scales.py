"""Distil the original into the scales and biases of a checkpoint: same codes, same bytes.

Forward KL on rollouts of the original, AdamW with a cosine schedule; the best state on rollouts
that were not trained on is kept, and the checkpoint is only touched when it is better than before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import mlx.core as mx
import numpy as np
from mlx import nn, optimizers
from mlx.utils import tree_map

from workers.evaluate import Evaluation
from workers.evaluate.teacher import log_probabilities
from workers.fisher import load_float32, sample_tokens
from workers.recovery.student import Parameters, Student

__all__ = ["Recovery", "recover_scales"]

_RATE: Final = 1e-3
_BATCH: Final = 4
_SEQUENCES: Final = 64
_HELD_OUT: Final = 8
_EVERY: Final = 10
"""Steps between two looks at the rollouts that are not trained on."""
_SEED: Final = 0xD15711
_PATIENCE: Final = 4


@dataclass(frozen=True, slots=True)
class Recovery:
    """KL in nats per token before and after, and whether the checkpoint was changed."""

    before: float
    after: float
    steps: int
    seconds: float
    changed: bool


def recover_scales(
    checkpoint: Path,
    reference: Path,
    *,
    seconds: float = 120.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Recovery:
    """Train scales and biases of `checkpoint` for at most `seconds`; never worse than before.

    `progress` is told seconds spent and allowed.
    """
    began = time.monotonic()
    student = Student(checkpoint)
    tokens = sample_tokens(reference, _SEQUENCES, seed=seed + _SEED)
    judge = Evaluation(reference, rollouts=_HELD_OUT, seed=seed + _SEED)
    training = _Training(student, load_float32(reference), judge, tokens)
    deadline = began + seconds
    while training.goes_on() and time.monotonic() < deadline:
        training.step()
        if progress is not None:
            progress(min(int(time.monotonic() - began), int(seconds)), int(seconds))
    training.look()
    changed = training.best < training.first
    if changed:
        _patch(checkpoint, student.arrays(training.kept))
    spent = time.monotonic() - began
    return Recovery(training.first, training.best, training.steps, spent, changed)


class _Training:
    def __init__(
        self, student: Student, teacher: nn.Module, judge: Evaluation, tokens: np.ndarray
    ) -> None:
        self.student, self.teacher, self.judge, self.tokens = student, teacher, judge, tokens
        self.parameters = student.start()
        self.kept = self.parameters
        self.optimizer = optimizers.AdamW(
            learning_rate=optimizers.cosine_decay(_RATE, 400, _RATE / 10), weight_decay=0.0
        )
        self.steps, self.stale = 0, 0
        self.first = self.best = self._held_out()
        self.gradient = mx.value_and_grad(self._loss)

    def goes_on(self) -> bool:
        """Whether the last looks still found something better."""
        return self.stale < _PATIENCE

    def step(self) -> None:
        """Take one step on the next batch of rollouts."""
        start = self.steps * _BATCH % (len(self.tokens) - _BATCH + 1)
        ids = self.tokens[start : start + _BATCH]
        target = mx.stop_gradient(log_probabilities(self.teacher, ids, "reference"))
        _, gradients = self.gradient(self.parameters, mx.array(ids), target)
        self.parameters = self.optimizer.apply_gradients(gradients, self.parameters)
        mx.eval(self.parameters, self.optimizer.state)
        self.steps += 1
        if self.steps % _EVERY == 0:
            self.look()

    def look(self) -> None:
        """Keep the parameters if they are the best so far on rollouts not trained on."""
        found = self._held_out()
        self.stale += 1
        if found < self.best:
            self.best, self.stale = found, 0
            self.kept = tree_map(lambda array: array, self.parameters)

    def _loss(self, parameters: Parameters, ids: mx.array, target: mx.array) -> mx.array:
        logits = self.student.apply(parameters)(ids)[:, :-1]
        log_q = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        loss: mx.array = (mx.exp(target) * (target - log_q)).sum(-1).mean()
        return loss

    def _held_out(self) -> float:
        model = self.student.apply(self.parameters, stored=True)
        report = self.judge.sets(model, "student")["rollouts"]
        return float(report["kl_nats_per_token"])


def _patch(checkpoint: Path, arrays: Mapping[str, mx.array]) -> None:
    """Write `arrays` over those of the same name in the files: no byte more or less."""
    for file in sorted(checkpoint.glob("*.safetensors")):
        with file.open("r+b") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
            for name in sorted(header.keys() & arrays.keys()):
                begin, end = header[name]["data_offsets"]
                array = arrays[name]
                bits = array.view(mx.uint16) if array.itemsize == 2 else array  # noqa: PLR2004
                data = np.array(bits).tobytes()
                if len(data) != end - begin:
                    message = f"{name}: {len(data)} bytes, {end - begin} in the file"
                    raise ValueError(message)
                stream.seek(8 + length + begin)
                stream.write(data)
