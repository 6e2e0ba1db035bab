"""What a model has room for: rows of its embedding, and positions where those are learned.

MLX checks no index: a token beyond the embedding, or a position beyond the table, reads and writes
foreign memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.files.folder import json_object_or_empty, read_files, read_json
from bitbudget.workers.files.heads import EMBEDDING
from bitbudget.workers.files.language_part import text_part

__all__ = ["begin_token", "check_tokens", "embedding_rows", "longest_window"]

_POSITIONS: Final = re.compile(r"(?:^|\.)(?:wpe|embed_positions|position_embeddings)\.weight$")
_CONTEXTS: Final = ("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx")
_FEWEST: Final = 2


def embedding_rows(folder: Path) -> int:
    """Return how many tokens the model's embedding has, 0 when it cannot be told."""
    rows = [shape[0] for name, shape in _shapes(folder) if EMBEDDING.search(name) and shape]
    size = _setting(folder, ("vocab_size",))
    return max(rows, default=size)


def longest_window(folder: Path, length: int) -> int:
    """Return `length` tokens, or as many as the model has positions for where that is less."""
    learned = [shape[0] for name, shape in _shapes(folder) if _POSITIONS.search(name) and shape]
    context = min([*learned, _setting(folder, _CONTEXTS) or length])
    return max(_FEWEST, min(length, context))


def begin_token(folder: Path) -> int:
    """Return the token that begins a text: BOS, else EOS, else 0, read from the config files.

    A generation_config.json that cannot be read counts as none, as in mlx-lm. Raises
    InvalidModelError for a token that the embedding does not have.
    """
    rows = embedding_rows(folder)
    for where, value in _begin_tokens(folder):
        if not 0 <= value < (rows or value + 1):
            raise InvalidModelError(
                where=where,
                found=f"token {value}",
                expected=f"one of the {rows} tokens of the embedding",
                remedy="correct the file: the model cannot begin a text so",
            )
        return value
    return 0


def check_tokens(
    folder: Path, ids: Sequence[int] | npt.NDArray[np.int32], tokenizer: Any = None
) -> None:
    """Raise InvalidModelError, which names the token, for an id beyond the embedding's rows."""
    rows = embedding_rows(folder)
    array = np.asarray(ids)
    if not rows or not array.size or (array.min() >= 0 and array.max() < rows):
        return
    odd = int(array[(array < 0) | (array >= rows)].flat[0])
    name = "" if tokenizer is None else f" ({tokenizer.convert_ids_to_tokens(odd)!r})"
    raise InvalidModelError(
        where=f"tokenizer of {folder.name}",
        found=f"token {odd}{name}",
        expected=f"at most {rows - 1}: the embedding has {rows} rows",
        remedy="resize the embedding to the tokenizer, or give a text without this token",
    )


def _shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    for file in read_files(folder):
        yield from ((tensor.name, tensor.shape) for tensor in file.tensors)


def _setting(folder: Path, names: Sequence[str]) -> int:
    config = read_json(folder / "config.json")
    for source in (text_part(config), config):
        for name in names:
            if type(source.get(name)) is int and source[name] > 0:
                return int(source[name])
    return 0


def _begin_tokens(folder: Path) -> Iterator[tuple[str, int]]:
    for name in ("generation_config.json", "config.json"):
        config = json_object_or_empty(folder / name)
        for source in (config, text_part(config)):
            for key in ("bos_token_id", "eos_token_id"):
                value = source.get(key)
                value = value[0] if isinstance(value, list) and value else value
                if type(value) is int:
                    yield f"{name}: {key}", value
