"""Hostile model folders, through the functions that open a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitbudget.workers.models import build_inventory, open_checkpoint
from tests.hostile import config_cases, folder_cases, safetensors_cases
from tests.hostile.conftest import Refused
from tests.hostile.tiny import Case, model

pytestmark = pytest.mark.hostile

CASES = [*safetensors_cases.cases(), *config_cases.cases(), *folder_cases.cases()]


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The model that the cases damage is sound; opening it once pays for imports."""
    folder = Case("sound", model()).write(tmp_path_factory.mktemp("sound") / "model")
    inventory = build_inventory(open_checkpoint(folder))
    assert len(inventory.modules) == 8


def test_the_corpus_is_as_large_as_promised() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 150


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_hostile_folder_is_a_clear_error(case: Case, tmp_path: Path, refused: Refused) -> None:
    folder = case.write(tmp_path / "model")
    with refused():
        build_inventory(open_checkpoint(folder))


def test_a_folder_that_is_missing_or_a_file(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("missing", "file"):
        with refused():
            open_checkpoint(tmp_path / name)
