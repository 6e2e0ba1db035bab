"""Task scores (MMLU-Pro, ...) through lm-evaluation-harness, where it is installed.

Its tasks call a language model for three things: the log-probability of a continuation, that of a
whole text, and text generated greedily. `TaskModel` answers them with a checkpoint computed in
float32 as everywhere in this package.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.distribution import install_hint
from bitbudget.workers.evaluate.teacher import log_probabilities
from bitbudget.workers.models.tokenizer import open_tokenizer
from bitbudget.workers.models.vocabulary import begin_token
from bitbudget.workers.running.float32 import load_float32

__all__ = ["TaskModel", "evaluate_tasks"]

_BATCH: Final = 8
_LENGTH: Final = 2048
"""Tokens a request is cut to, from its beginning."""
_GENERATED: Final = 256


def evaluate_tasks(
    folder: Path, tasks: Sequence[str], *, include: Path | None = None, limit: int | None = None
) -> dict[str, dict[str, float]]:
    """Return the metrics of every task for the checkpoint in `folder`.

    `include` is a folder of tasks of the user's, `limit` the most questions of each task.

    Raises InvalidRequestError when lm-evaluation-harness is missing or knows no such task.
    """
    manager, simple_evaluate, base = _harness()
    known = manager(include_path=None if include is None else str(include))
    missing = [name for name in tasks if name not in known.all_tasks]
    if missing:
        raise InvalidRequestError(
            where="--tasks",
            found=", ".join(missing),
            expected="tasks that lm-evaluation-harness knows, such as mmlu_pro",
            remedy="see lm_eval --tasks list, or name the folder of your own with --task-folder",
        )
    model = _adapter(base)(TaskModel(folder))
    found = simple_evaluate(
        model=model, tasks=list(tasks), task_manager=known, limit=limit, log_samples=False
    )
    return {
        name: {
            key.split(",")[0]: float(value)
            for key, value in metrics.items()
            if isinstance(value, (int, float)) and "stderr" not in key
        }
        for name, metrics in found["results"].items()
    }


def _harness() -> tuple[Any, Any, Any]:
    try:
        return (
            importlib.import_module("lm_eval.tasks").TaskManager,
            importlib.import_module("lm_eval").simple_evaluate,
            importlib.import_module("lm_eval.api.model").LM,
        )
    except ImportError as error:
        raise InvalidRequestError(
            where="--tasks",
            found=f"no lm-evaluation-harness ({error})",
            expected="the package lm-eval",
            remedy=install_hint("tasks"),
        ) from error


def _adapter(base: Any) -> Any:
    """Return a subclass of the harness's own model that asks a TaskModel."""

    class Adapter(base):  # type: ignore[misc]
        def __init__(self, model: TaskModel) -> None:
            super().__init__()
            self.model = model

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return self.model.continuations([request.args for request in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return [
                score for score, _ in self.model.continuations([("", r.args[0]) for r in requests])
            ]

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return [self.model.generate(*request.args) for request in requests]

    return Adapter


class TaskModel:
    """A checkpoint in float32 with its tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self.model = load_float32(folder)
        self.tokenizer = open_tokenizer(folder)
        self.begin = begin_token(folder)

    def continuations(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Return for each (context, continuation) its log-probability and whether it is greedy."""
        cut = [self._tokens(*pair) for pair in pairs]
        order = sorted(range(len(cut)), key=lambda index: len(cut[index][0]))
        found: list[tuple[float, bool]] = [(0.0, True)] * len(cut)
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            for index, score in zip(chosen, self._scores([cut[i] for i in chosen]), strict=True):
                found[index] = score
        return found

    def generate(self, context: str, options: JsonObject) -> str:
        """Return what the model writes greedily until one of `options["until"]`."""
        until = options.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        most = int(options.get("max_gen_toks") or _GENERATED)
        prompt = self._encode(context)[-_LENGTH:]
        generate_step: Callable[..., Any] = importlib.import_module("mlx_lm.generate").generate_step
        written: list[int] = []
        text = ""
        for token, _ in generate_step(mx.array([self.begin, *prompt]), self.model, max_tokens=most):
            if int(token) in self.tokenizer.eos_token_ids:
                break
            written.append(int(token))
            text = str(self.tokenizer.decode(written))
            if any(stop in text for stop in stops):
                break
        for stop in stops:
            text = text.split(stop)[0]
        return text

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _tokens(self, context: str, continuation: str) -> tuple[list[int], int]:
        """Return the tokens of both, from BOS, and how many of them are the continuation's."""
        whole, before = self._encode(context + continuation), self._encode(context)
        count = max(len(whole) - len(before), 1)
        return [self.begin, *whole[-_LENGTH:]], min(count, _LENGTH)

    def _scores(self, batch: Sequence[tuple[list[int], int]]) -> list[tuple[float, bool]]:
        longest = max(len(ids) for ids, _ in batch)
        padded = np.array([ids + [self.begin] * (longest - len(ids)) for ids, _ in batch], np.int32)
        log_p = log_probabilities(self.model, padded, self.name)
        labels = mx.array(padded[:, 1:, None])
        chosen = np.array(mx.take_along_axis(log_p, labels, axis=-1)[..., 0], np.float64)
        greedy = np.array(mx.argmax(log_p, axis=-1)) == padded[:, 1:]
        scores = []
        for row, (ids, count) in enumerate(batch):
            own = slice(len(ids) - 1 - count, len(ids) - 1)
            scores.append((float(chosen[row, own].sum()), bool(greedy[row, own].all())))
        return scores
