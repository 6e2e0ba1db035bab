"""A tiny model and a checkpoint of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workers.recovery.checkpoints import quantized, tiny


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """The model."""
    return tiny(tmp_path / "original")


@pytest.fixture
def rough(original: Path, tmp_path: Path) -> Path:
    """Its checkpoint, in few bits."""
    return quantized(original, tmp_path / "rough")
