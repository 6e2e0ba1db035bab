"""A model on which few bits cost something."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest

from tests.workers.models.tiny import write_folder, write_tiny


@pytest.fixture(scope="session")
def large_errors_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, large enough that the predictions are no coin tosses."""
    folder = tmp_path_factory.mktemp("models")
    sound = write_tiny(folder / "sound", "llama", vocab_size=64)
    config = json.loads((sound / "config.json").read_text())
    weights = dict(mx.load(str(sound / "model.safetensors")))  # type: ignore[arg-type]
    large = {name: (5 * array).astype(mx.bfloat16) for name, array in weights.items()}
    return write_folder(folder / "tiny", config, large)
