"""`bitbudget guide` on stored measurements."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from bitbudget.app.core.devices import DEVICES
from bitbudget.app.core.measurement import Measurement
from tests.app.cli.conftest import Run


@pytest.fixture
def files(measurement: Measurement, tmp_path: Path) -> list[Path]:
    """Two models' measurements."""
    found = []
    for name in ("org/one", "org/two"):
        named = replace(measurement, model=replace(measurement.model, name=name))
        file = tmp_path / f"{name.replace('/', '-')}.json"
        file.write_bytes(named.to_json())
        found.append(file)
    return found


def test_every_model_has_a_row_for_every_mac(
    bitbudget: Run, files: list[Path], tmp_path: Path
) -> None:
    table = tmp_path / "guide.csv"
    answer = bitbudget("guide", *files, "--context", "256", "--csv", table, "--json")
    assert answer.code == 0
    assert list(answer.document["models"]) == ["org/one", "org/two"]
    for rows in answer.document["models"].values():
        assert [row["device"] for row in rows] == list(DEVICES)
        assert all(row["file_bytes"] <= row["budget_bytes"] for row in rows)
    with table.open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 2 * len(DEVICES)


def test_one_device_can_be_asked_for(bitbudget: Run, files: list[Path]) -> None:
    answer = bitbudget("guide", files[0], "--device", "m4-pro-24gb", "--json")
    (row,) = answer.document["models"]["org/one"]
    assert row["device"] == "m4-pro-24gb"
    assert row["tokens_per_second"] > 0
    assert bitbudget("guide", files[0], "--device", "m99", "--json").code == 2


def test_it_prints_a_table(bitbudget: Run, files: list[Path]) -> None:
    answer = bitbudget("guide", files[0], "--context", "256")
    assert answer.code == 0
    assert "not measured" in answer.out
