"""Tokens the model writes itself: no data is needed to measure a model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Final

import mlx.core as mx
import numpy as np

from bitbudget.app.core.effort import EFFORTS, Effort, calibration_windows
from bitbudget.workers.models.checkpoint import Checkpoint
from bitbudget.workers.models.vocabulary import begin_token, longest_window
from bitbudget.workers.running.hidden_states import HiddenStates
from bitbudget.workers.running.streaming_forward import Forward, empty_cache, open_writer

__all__ = ["SEQUENCE_LENGTH", "default_tokens", "default_windows", "sample_tokens"]

SEQUENCE_LENGTH: Final = 256


def default_windows(weights: int, effort: Effort) -> int:
    """Return how many windows a model with so many weights is measured on here."""
    on_gpu = mx.default_device() == mx.Device(mx.gpu)
    return calibration_windows(effort, weights, on_gpu=on_gpu)


def default_tokens(weights: int, effort: Effort = Effort.STANDARD) -> int:
    """Return how many tokens a model with so many weights is measured on here."""
    return default_windows(weights, effort) * EFFORTS[effort].window_tokens


def sample_tokens(
    checkpoint: Checkpoint | Path,
    count: int,
    length: int = SEQUENCE_LENGTH,
    *,
    seed: int,
    batch: int = 64,
    model: Forward | None = None,
    hidden: HiddenStates | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return int32 (count, length): sequences the model wrote at temperature 1 from BOS.

    They are shorter where the model has fewer positions.
    The same seed gives the same tokens on the same machine. End of text does not stop a sequence:
    what the model writes after it is its text, too. `model` spares loading it once more.
    `hidden` is filled with what the layers are given on the way. `progress` is told tokens written
    and wanted.
    """
    folder = checkpoint if isinstance(checkpoint, Path) else checkpoint.folder
    model = open_writer(folder) if model is None else model
    begin, length = begin_token(folder), longest_window(folder, length)
    done = []
    for start in range(0, count, batch):
        key, rows = mx.random.key(seed * 1_000_003 + start), min(batch, count - start)

        def wrote(columns: int, before: int = start, rows: int = rows) -> None:
            if progress is not None:
                progress(before * length + columns * rows, count * length)

        keep = None if hidden is None else partial(hidden.keep, slice(start, start + rows))
        with nullcontext() if hidden is None else hidden.on(model):
            done.append(_sample_batch(model, (rows, length), begin, key, wrote=wrote, keep=keep))
    return np.concatenate(done)


def _sample_batch(
    model: Forward,
    shape: tuple[int, int],
    begin: int,
    key: mx.array,
    *,
    wrote: Callable[[int], None],
    keep: Callable[[int], None] | None,
) -> np.ndarray:
    """Return int32 rows of tokens; `keep` is told each position that the model has read."""
    cache = empty_cache(model)
    rows, length = shape
    keys = mx.random.split(key, length)
    current = mx.full((rows, 1), begin, dtype=mx.int32)
    columns = [current]
    for step in range(length - 1):
        logits = model(current, cache=cache)[:, -1].astype(mx.float32)
        current = mx.random.categorical(logits, key=keys[step])[:, None].astype(mx.int32)
        mx.async_eval(current)
        columns.append(current)
        if keep is not None:
            keep(step)
        wrote(len(columns))
    if keep is not None:
        model(current, cache=cache)
        keep(length - 1)
    return np.array(mx.concatenate(columns, axis=1), dtype=np.int32)
