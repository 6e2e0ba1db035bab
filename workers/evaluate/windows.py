"""The token windows two models are compared on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np

from bitbudget.app.core.calibration_text import OwnText
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.workers.models.chat import chat_of, template_digest
from bitbudget.workers.models.documents import documents
from bitbudget.workers.models.tokenizer import open_tokenizer
from bitbudget.workers.models.vocabulary import begin_token, check_tokens, longest_window
from bitbudget.workers.running.scripts import Script
from bitbudget.workers.running.tokens import own_script, write_tokens

__all__ = [
    "MOST_WINDOWS",
    "ROLLOUT_SEED",
    "WINDOW",
    "digest",
    "rollout_kind",
    "rollout_script",
    "rollout_windows",
    "text_windows",
]

WINDOW: Final = 256
"""Tokens of a window, the first of which is BOS."""
MOST_WINDOWS: Final = 64
"""Windows a text is cut into at most, evenly spread; a longer text adds little."""
ROLLOUT_SEED: Final = 0x5EED
"""Added to the seed, so that no rollout was seen by the statistics made with the same seed."""


def text_windows(folder: Path, text: str, *, where: str, length: int = WINDOW) -> np.ndarray:
    """Return int32 (windows, length): `text` in windows that begin with BOS.

    `text` is what `documents` reads. Windows are shorter where the model has fewer positions.

    Raises InvalidModelError when `folder` has no tokenizer, InvalidRequestError when the text is
    shorter than one window.
    """
    tokenizer, begin = open_tokenizer(folder), begin_token(folder)
    length = longest_window(folder, length)
    found = documents(text, tokenizer, where=where, begin=begin)
    check_tokens(folder, list(chain.from_iterable(found)), tokenizer)
    windows = _windows(found, begin, length)
    if not windows:
        raise InvalidRequestError(
            where=where,
            found=f"{sum(map(len, found))} tokens",
            expected=f"at least one window of {length - 1} tokens",
            remedy="give a longer text, or evaluate on rollouts",
        )
    chosen = np.unique(
        np.linspace(0, len(windows) - 1, min(len(windows), MOST_WINDOWS)).astype(int)
    )
    result: np.ndarray = np.array(windows, np.int32)[chosen]
    return result


def _windows(documents: list[list[int]], begin: int, length: int) -> list[list[int]]:
    """Cut documents into windows that begin with `begin`, at a document's start where possible.

    Short documents share a window, each with its own `begin`; of a long one every whole window is
    used; what is left of a cut document is dropped.
    """
    windows: list[list[int]] = []
    buffer: list[int] = []
    for document in documents:
        buffer = [*buffer, begin, *document]
        if len(buffer) < length:
            continue
        windows.append(buffer[:length])
        rest = buffer[length:]
        windows.extend(
            [begin, *rest[start : start + length - 1]]
            for start in range(0, len(rest) - length + 2, length - 1)
        )
        buffer = []
    return windows


def rollout_windows(
    folder: Path,
    count: int,
    *,
    seed: int,
    length: int = WINDOW,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return int32 (count, length): what the model in `folder` writes itself.

    A chat model answers prompts that no statistics were made on.
    """
    script = rollout_script(folder, count, length=length, seed=seed)
    return write_tokens(folder, script, seed=seed + ROLLOUT_SEED, progress=progress)


def rollout_script(folder: Path, count: int, *, seed: int, length: int = WINDOW) -> Script:
    """Return what the model in `folder` is made to read in its rollouts."""
    chat = chat_of(folder, held_out=True)
    return own_script(folder, count, length, seed=seed + ROLLOUT_SEED, chat=chat)


def rollout_kind(folder: Path) -> str:
    """Return a short name of how the model in `folder` writes rollouts, for a cache."""
    return (template_digest(folder) or OwnText.SELF.value)[:16]


def digest(windows: np.ndarray) -> str:
    """Return the SHA-256 of the windows' token ids."""
    return hashlib.sha256(np.ascontiguousarray(windows, "<i4").tobytes()).hexdigest()
