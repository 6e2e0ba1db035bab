"""The tokens that sensitivity is measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.calibration_text import OwnText
from bitbudget.app.core.effort import EFFORTS
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.workers.evaluate.cache import ReferenceCache
from bitbudget.workers.evaluate.reference import write_with_rollouts
from bitbudget.workers.models.chat import open_chat
from bitbudget.workers.models.documents import documents
from bitbudget.workers.models.tokenizer import open_tokenizer
from bitbudget.workers.models.vocabulary import begin_token, check_tokens, longest_window
from bitbudget.workers.pipeline.options import MeasureOptions
from bitbudget.workers.running.hidden_states import HiddenStates
from bitbudget.workers.running.streaming_forward import fits_whole
from bitbudget.workers.running.tokens import default_windows, own_script

__all__ = ["measurement_tokens", "unused_text"]


def measurement_tokens(
    folder: Path,
    weights: int,
    options: MeasureOptions,
    cache: ReferenceCache,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[npt.NDArray[np.int32], Sequence[np.ndarray]]:
    """Return int32 (sequences, length): the model's own text, or the user's cut to windows.

    With its own text come the hidden states between layers, where the model itself wrote it and
    they fit, else none. `cache` keeps rollouts that are written beside it. `progress` is told
    tokens that the model wrote and will write.
    """
    count = default_windows(weights, options.effort)
    if options.text is not None:
        return _windows(folder, options, count), ()
    length = longest_window(folder, EFFORTS[options.effort].window_tokens)
    hidden = HiddenStates((count, length)) if fits_whole(folder) else None
    chat = open_chat(folder) if options.own_text is OwnText.CHAT else None
    tokens = write_with_rollouts(
        folder,
        own_script(folder, count, length, seed=options.seed, chat=chat, by_turns=True),
        seed=options.seed,
        cache=cache,
        effort=options.effort,
        hidden=hidden,
        progress=progress,
    )
    return tokens, () if hidden is None else hidden.states


def unused_text(
    folder: Path, weights: int, options: MeasureOptions, count: int
) -> npt.NDArray[np.int32] | None:
    """Return int32 (count, length): what follows `measurement_tokens` in the user's text.

    None without a text, and where it ends before.
    """
    if options.text is None:
        return None
    used = default_windows(weights, options.effort)
    found = _windows(folder, options, used + count)[used:]
    return found if len(found) == count else None


def _windows(folder: Path, options: MeasureOptions, count: int) -> npt.NDArray[np.int32]:
    text = options.text_bytes().decode(errors="replace")
    tokenizer, begin = open_tokenizer(folder), begin_token(folder)
    parts = documents(text, tokenizer, where=str(options.text), begin=begin)
    ids = np.asarray(list(chain.from_iterable([begin, *part] for part in parts))[1:], np.int32)
    check_tokens(folder, ids, tokenizer)
    width = longest_window(folder, EFFORTS[options.effort].window_tokens) - 1
    rows = min(count, ids.size // width)
    if rows == 0:
        raise InvalidRequestError(
            where="text",
            found=f"{ids.size} tokens",
            expected=f"at least {width}",
            remedy="give a longer text, or none to use the model's own",
        )
    first = np.full((rows, 1), begin, np.int32)
    return np.concatenate([first, ids[: rows * width].reshape(rows, width)], axis=1)
