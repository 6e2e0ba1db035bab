"""Tokens the model writes itself: no data is needed to measure a model.

A base model writes from its beginning token, a chat model answers bundled prompts as it would in
use. Its prompts are read token by token while other rows write: a step costs the same.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Final

import mlx.core as mx
import numpy as np

from bitbudget.app.core.effort import EFFORTS, ROWS_AT_ONCE, Effort, calibration_windows
from bitbudget.workers.models.chat import Chat
from bitbudget.workers.models.checkpoint import Checkpoint
from bitbudget.workers.models.vocabulary import begin_token, longest_window
from bitbudget.workers.running.device import on_gpu
from bitbudget.workers.running.drawing_tokens import draw_tokens
from bitbudget.workers.running.hidden_states import HiddenStates
from bitbudget.workers.running.numpy_functions import by_numpy
from bitbudget.workers.running.scripts import OWN, Script, asking, from_begin
from bitbudget.workers.running.streaming_forward import Forward, empty_cache, open_writer

__all__ = [
    "SEQUENCE_LENGTH",
    "default_tokens",
    "default_windows",
    "own_script",
    "sample_tokens",
    "write_tokens",
]

SEQUENCE_LENGTH: Final = 256


def default_windows(weights: int, effort: Effort) -> int:
    """Return how many windows a model with so many weights is measured on here."""
    return calibration_windows(effort, weights, on_gpu=on_gpu())


def default_tokens(weights: int, effort: Effort = Effort.STANDARD) -> int:
    """Return how many tokens a model with so many weights is measured on here."""
    return default_windows(weights, effort) * EFFORTS[effort].window_tokens


def sample_tokens(
    checkpoint: Checkpoint | Path,
    count: int,
    length: int = SEQUENCE_LENGTH,
    *,
    seed: int,
    batch: int = ROWS_AT_ONCE,
    chat: Chat | None = None,
    by_turns: bool = False,
    model: Forward | None = None,
    hidden: HiddenStates | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return int32 (count, length): sequences that the model wrote at temperature 1.

    Without `chat` it writes from its beginning token, and end of text does not stop a sequence:
    what it writes after it is its text, too. With `chat` a sequence is a conversation, in which the
    next prompt follows the end of an answer (see `scripts.asking`); `by_turns` every second one is
    written from the beginning token all the same.

    Sequences are shorter where the model has fewer positions.
    The same seed gives the same tokens on the same machine. `model` spares loading it once more.
    `hidden` is filled with what the layers are given on the way. `progress` is told tokens written
    and wanted.
    """
    folder = checkpoint if isinstance(checkpoint, Path) else checkpoint.folder
    script = own_script(folder, count, length, seed=seed, chat=chat, by_turns=by_turns)
    return write_tokens(
        folder, script, seed=seed, batch=batch, model=model, hidden=hidden, progress=progress
    )


def own_script(
    folder: Path,
    count: int,
    length: int,
    *,
    seed: int,
    chat: Chat | None = None,
    by_turns: bool = False,
) -> Script:
    """Return what the model in `folder` is made to read in `sample_tokens`."""
    length = longest_window(folder, length)
    if chat is None:
        return Script(from_begin(begin_token(folder), count, length))
    rows = asking(chat, count, length, seed=seed)
    if by_turns:
        rows[1::2] = from_begin(begin_token(folder), count // 2, length)
    return Script(rows, chat.ends)


def write_tokens(
    folder: Path,
    script: Script,
    *,
    seed: int,
    batch: int = ROWS_AT_ONCE,
    model: Forward | None = None,
    hidden: HiddenStates | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return int32 (sequences, length): the rows of `script` with what the model in `folder` wrote.

    `hidden` is filled for the first sequences, as many as it has room for.
    """
    model = open_writer(folder) if model is None else model
    count, length = script.rows.shape
    done = []
    for start in range(0, count, batch):
        key, rows = mx.random.key(seed * 1_000_003 + start), slice(start, start + batch)
        part = Script(script.rows[rows], script.ends)

        def wrote(columns: int, before: int = start, sequences: int = len(part.rows)) -> None:
            if progress is not None:
                progress(before * length + columns * sequences, count * length)

        keep = None if hidden is None else partial(hidden.keep, rows)
        with by_numpy(), nullcontext() if hidden is None else hidden.on(model):
            done.append(_sample_batch(model, part, key, wrote=wrote, keep=keep))
    return np.concatenate(done)


def _sample_batch(
    model: Forward,
    script: Script,
    key: mx.array,
    *,
    wrote: Callable[[int], None],
    keep: Callable[[int], None] | None,
) -> np.ndarray:
    """Return int32 rows of tokens; `keep` is told each position that the model has read.

    A row stands at a place of its script. Where that is `OWN` the model's token is taken, and the
    row stays until the token is one of the ends; elsewhere the script's token is taken.
    """
    cache, (count, length) = empty_cache(model), script.rows.shape
    keys = mx.random.split(key, length)
    given, ending = mx.array(script.rows), mx.array(sorted(script.ends), dtype=mx.int32)
    at, current = mx.ones((count, 1), dtype=mx.int32), given[:, :1]
    columns = [current]
    for step in range(length - 1):
        logits = model(current, cache=cache)[:, -1].astype(mx.float32)
        drawn = draw_tokens(logits, keys[step])[:, None]
        forced = mx.take_along_axis(given, at, axis=1)
        current = mx.where(forced == OWN, drawn, forced)
        at += (forced != OWN) | (drawn[..., None] == ending).any(axis=-1)
        mx.async_eval(current, at)
        columns.append(current)
        if keep is not None:
            keep(step)
        wrote(len(columns))
    if keep is not None:
        model(current, cache=cache)
        keep(length - 1)
    return np.array(mx.concatenate(columns, axis=1), dtype=np.int32)
