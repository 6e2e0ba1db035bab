from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.app.cli.conftest import Run

GROUPS = [
    {
        "name": "a",
        "options": [{"name": "x", "bytes": 3, "cost": 2}, {"name": "y", "bytes": 6, "cost": 1}],
    },
    {
        "name": "b",
        "options": [{"name": "x", "bytes": 4, "cost": 3}, {"name": "y", "bytes": 8, "cost": 0}],
    },
]


def write(folder: Path, value: dict[str, Any]) -> Path:
    file = folder / "problem.json"
    file.write_text(json.dumps(value))
    return file


def test_prints_one_json_object_with_the_certificate(bitbudget: Run, tmp_path: Path) -> None:
    done = bitbudget("solve", write(tmp_path, {"budget": 11, "groups": GROUPS}), "--json")
    assert done.code == 0, done.err
    answer = done.document
    assert answer["choices"] == {"a": "x", "b": "y"}
    assert (answer["objective"], answer["bytes"], answer["status"]) == (2.0, 11, "optimal")
    assert answer["bound"] <= answer["objective"]
    assert 0 <= answer["gap"] < 1e-9
    assert 0 < answer["seconds"] < 60


def test_reads_arrays(bitbudget: Run, tmp_path: Path) -> None:
    file = tmp_path / "problem.npz"
    np.savez(file, budget=11, bytes=[[3, 6], [4, 8]], costs=[[2.0, 1.0], [3.0, 0.0]])
    assert bitbudget("solve", file, "--json").document["choices"] == {"0": "0", "1": "1"}


def test_exit_codes(bitbudget: Run, tmp_path: Path) -> None:
    infeasible = bitbudget("solve", write(tmp_path, {"budget": 6, "groups": GROUPS}), "--json")
    assert (infeasible.code, infeasible.document["minimum_bytes"]) == (3, 7)
    wrong = bitbudget("solve", write(tmp_path, {"budget": 6, "groups": []}))
    assert wrong.code == 2
    assert "groups" in wrong.err
    assert bitbudget("solve", tmp_path / "missing.json").code == 2


def test_draws_a_table(bitbudget: Run, tmp_path: Path) -> None:
    done = bitbudget("solve", write(tmp_path, {"budget": 11, "groups": GROUPS}))
    assert "optimal" in done.out
