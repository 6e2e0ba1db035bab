"""Open a checkpoint: from a local folder, or from headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from bitbudget.workers.models.arrays import MLX_DTYPES, load_files
from bitbudget.workers.models.checkpoint import Checkpoint
from bitbudget.workers.models.folder import (
    check_config,
    check_names,
    check_unquantized,
    read_config,
)
from bitbudget.workers.models.folder import read_files as read_weight_files
from bitbudget.workers.models.headers import SourceFile

__all__ = ["checkpoint_from_headers", "open_checkpoint"]


def open_checkpoint(folder: Path, name: str | None = None, revision: str = "local") -> Checkpoint:
    """Open a local folder: headers are checked, no weight is read.

    Raises InvalidModelError and UnsupportedModelError for anything mlx-lm could not load dense.
    """
    config = read_config(folder)
    check_unquantized(config, folder)
    files = read_weight_files(folder)

    def load() -> dict[str, mx.array]:
        return load_files([folder / file.name for file in files])

    return Checkpoint(name or folder.resolve().name, revision, folder, config, files, load)


def checkpoint_from_headers(
    name: str,
    revision: str,
    config: dict[str, Any],
    files: Sequence[SourceFile],
    digest: str = "",
) -> Checkpoint:
    """Return a checkpoint known by its headers alone, every weight an unevaluated zero.

    It gives an inventory, and nothing that needs values. `digest` is the identity, where known.
    """
    check_unquantized(check_config(config))
    checked = check_names(files)

    def load() -> dict[str, mx.array]:
        return {
            tensor.name: mx.zeros(tensor.shape, MLX_DTYPES[tensor.dtype])
            for file in checked
            for tensor in file.tensors
        }

    return Checkpoint(name, revision, Path(), config, checked, load, digest=digest)
