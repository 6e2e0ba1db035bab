"""Finished items survive a kill in the middle of a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitbudget.workers.pipeline.journal import Journal


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_torn_line_is_dropped(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    items = [{"path": "a", "t2": 0.1}, {"path": "b\n", "t2": 0.25}]
    for item in items:
        journal.append(item)
    last = len(path.read_bytes().splitlines(keepends=True)[-1])
    path.write_bytes(path.read_bytes()[:-cut])
    found = list(Journal(path))
    assert found == items[: 2 if cut == 0 else 1] if cut <= last else found == []
    Journal(path).append(items[1])
    assert list(Journal(path))[-1] == items[1]
