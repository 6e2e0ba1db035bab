"""Files that are never seen half-written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bitbudget.workers.pipeline.files import write_whole


def test_a_draft_lies_where_it_is_told_and_is_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint"
    seen: list[tuple[list[Path], int]] = []

    def look(_: int) -> None:
        seen.append((list(folder.iterdir()), len(list(tmp_path.iterdir()))))

    monkeypatch.setattr(os, "fsync", look)
    write_whole(folder / "README.md", b"card", draft_folder=tmp_path)
    assert seen == [([], 2)], "the folder, and beside it the draft"
    assert [path.name for path in tmp_path.rglob("*")] == ["checkpoint", "README.md"]
