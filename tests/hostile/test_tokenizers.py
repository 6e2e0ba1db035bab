"""Hostile tokenizers, through the function that opens one."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from bitbudget.app.core.errors import InvalidModelError
from bitbudget.samples import sample_model
from bitbudget.workers.models.tokenizer import open_tokenizer
from tests.hostile import tokenizer_cases
from tests.hostile.conftest import Refused
from tests.hostile.tiny import Case

pytestmark = pytest.mark.hostile

SAMPLE = sample_model()


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """The tokenizer that the cases damage is sound; opening it once pays for imports."""
    assert open_tokenizer(SAMPLE).encode("Once upon a time")


@pytest.mark.parametrize("case", [*tokenizer_cases.cases(SAMPLE)], ids=str)
def test_a_hostile_tokenizer_is_a_clear_error(case: Case, tmp_path: Path, refused: Refused) -> None:
    folder = case.write(tmp_path / "model")
    with refused():
        open_tokenizer(folder)


def test_code_that_comes_with_a_tokenizer_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    folder = tokenizer_cases.with_code(SAMPLE, marker).write(tmp_path / "model")
    with contextlib.suppress(InvalidModelError):
        open_tokenizer(folder)
    assert not marker.exists()
