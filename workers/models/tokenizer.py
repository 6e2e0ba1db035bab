"""The tokenizer of a model folder, opened without running any code that came with it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Final

from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.files.folder import json_object_or_empty

__all__ = ["open_tokenizer", "tokenizer_notes", "write_fast_tokenizer"]

_FILES: Final = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
)

_VOCABULARIES: Final = ("*vocab*", "*.model", "*.tiktoken")
"""Files that hold the tokens themselves."""


def open_tokenizer(folder: Path) -> Any:
    """Return mlx-lm's tokenizer of the model in `folder`.

    Raises InvalidModelError when there is none, or one that cannot be read or wants to run code.
    """
    if not any((folder / name).is_file() for name in _FILES):
        raise InvalidModelError(
            where=str(folder),
            found="no tokenizer",
            expected=" or ".join(_FILES),
            remedy="copy the tokenizer's files beside the weights, or do without a text",
        )
    code = _own_code(folder)
    load = importlib.import_module("mlx_lm.utils").load_tokenizer
    try:
        return load(folder, {"trust_remote_code": False})
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the tokenizers library panics outside of Exception
        if code:
            raise InvalidModelError(
                where=str(folder),
                found=f"a tokenizer with code of its own ({code})",
                expected="one that the tokenizers library reads: no code of a model is run here",
                remedy="do without a text (--sensitivity weights), or add a tokenizer.json",
            ) from error
        raise InvalidModelError(
            where=str(folder),
            found=f"a tokenizer that cannot be read ({type(error).__name__}: {error})"[:400],
            expected="the tokenizer's files as the model's makers published them",
            remedy="download the tokenizer's files again",
        ) from error


def write_fast_tokenizer(folder: Path, target: Path) -> bool:
    """Write `tokenizer.json` to `target` where the tokenizer in `folder` can be converted to it.

    `mlx_lm.convert` does so, too: Swift loaders and LM Studio read no other file.
    """
    if not any(path for pattern in _VOCABULARIES for path in folder.glob(pattern)):
        return False
    try:
        backend = open_tokenizer(folder)._tokenizer.backend_tokenizer  # noqa: SLF001, the wrapped one
    except (InvalidModelError, AttributeError):
        return False
    backend.save(str(target / "tokenizer.json"))
    return True


def tokenizer_notes(folder: Path) -> tuple[str, ...]:
    """Return what the user should know of the tokenizer before hours are spent."""
    if not any((folder / name).is_file() for name in _FILES):
        return (
            "the folder has no tokenizer: the output will have none, and no text is understood",
        )
    code = _own_code(folder)
    if not code:
        return ()
    note = f"the tokenizer has code of its own ({code}), copied and never run here: stock mlx-lm"
    return (f"{note} loads the output with trust_remote_code alone",)


def _own_code(folder: Path) -> str:
    """Return the class that tokenizer_config.json asks to be run, "" where it asks for none."""
    classes = json_object_or_empty(folder / "tokenizer_config.json").get("auto_map")
    named = classes.get("AutoTokenizer") if isinstance(classes, dict) else classes
    named = next(filter(None, named), "") if isinstance(named, list) else named
    return str(named or "")
