"""Checkpoints as mlx-lm's own loader opens them, and what somebody gave tried within limits."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from mlx import nn

from bitbudget.app.core.canonical import JsonObject
from bitbudget.loading import model_classes
from bitbudget.workers.files.counts import check_counts
from bitbudget.workers.files.folder import read_files, read_json
from bitbudget.workers.files.limits import reading

__all__ = ["check_opens", "stock_model"]


def stock_model(folder: Path) -> tuple[nn.Module, JsonObject]:
    """Return the model in `folder`, nothing of its weights read yet, and its configuration.

    InvalidModelError for a configuration that counts more than the files hold.
    """
    utilities: Any = import_module("mlx_lm.utils")
    tensors = sum(len(file.tensors) for file in read_files(folder))
    check_counts(read_json(folder / "config.json"), tensors)
    model, config = utilities.load_model(
        folder, lazy=True, model_config={"model_file": None}, get_model_classes=model_classes
    )
    return model, config


def check_opens(folder: Path, opened: Callable[[Path], object]) -> None:
    """Raise what `opened` raises for a checkpoint that somebody gave, before it is run.

    It may take the memory and the processor time that reading a model may take, and no more.
    """
    import_module("mlx_lm.utils")  # with all tokenizers; not of what is limited
    with reading():
        opened(folder)
