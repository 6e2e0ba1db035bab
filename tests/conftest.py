"""Fixtures that every part of the tests shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def sample_model() -> Path:
    """The bundled model's folder."""
    return REPOSITORY / "models" / "tinyqwen3-dense"


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """Further trained models and texts, which are not part of the repository."""
    folder = Path(os.environ.get("BITBUDGET_FIXTURES", REPOSITORY.parent / "shared" / "fixtures"))
    if not folder.is_dir():
        pytest.skip(f"no fixtures at {folder}: set BITBUDGET_FIXTURES to their folder")
    return folder
