"""The tokenizer of a model folder, opened without running any code that came with it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Final

from bitbudget.app.core.errors import InvalidModelError

__all__ = ["open_tokenizer"]

_FILES: Final = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


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
    load = importlib.import_module("mlx_lm.utils").load_tokenizer
    try:
        return load(folder, {"trust_remote_code": False})
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the tokenizers library panics outside of Exception
        raise InvalidModelError(
            where=str(folder),
            found=f"a tokenizer that cannot be read ({type(error).__name__}: {error})"[:400],
            expected="the tokenizer's files as the model's makers published them",
            remedy="download the tokenizer's files again",
        ) from error
