from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from bitbudget.app.core.manifest import Manifest
from tests.app.cli.conftest import Run


def test_allocates_on_a_stored_measurement(
    bitbudget: Run, measurement_file: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "manifest.json"
    answer = bitbudget("allocate", measurement_file, "--budget", "140kB", "-o", manifest, "--json")
    assert answer.code == 0
    document = answer.document
    assert document["file_bytes"] <= document["budget_bytes"] == 140_000
    assert document["bound"] <= document["predicted_kl_nats_per_token"]
    assert Manifest.from_bytes(manifest.read_bytes()).sha256 == document["sha256"]
    assert bitbudget("manifest", "verify", manifest).code == 0


def test_pins_hold(bitbudget: Run, measurement_file: Path) -> None:
    answer = bitbudget(
        "allocate", measurement_file, "--budget", "200kB", "--pin", "*.q_proj=affine8g32", "--json"
    )
    assert answer.document["modules"]["model.layers.0.self_attn.q_proj"] == "affine8g32"


def test_floors_hold(bitbudget: Run, measurement_file: Path) -> None:
    floored = ("allocate", measurement_file, "--budget", "200kB", "--floor", "*.q_proj=8", "--json")
    chosen = bitbudget(*floored).document["modules"]["model.layers.0.self_attn.q_proj"]
    assert chosen.startswith(("affine8", "mxfp8", "keep"))
    wrong = bitbudget("allocate", measurement_file, "--budget", "1MB", "--floor", "*=many")
    assert wrong.code == 2


def test_an_infeasible_budget_exits_3_and_names_the_smallest(
    bitbudget: Run, measurement_file: Path
) -> None:
    answer = bitbudget("allocate", measurement_file, "--budget", "1kB", "--json")
    assert answer.code == 3
    smallest = answer.document["minimum_bytes"]
    assert f"{smallest:,}" in answer.err
    assert bitbudget("allocate", measurement_file, "--budget", smallest).code == 0
    assert bitbudget("allocate", measurement_file, "--budget", smallest - 1).code == 3


def test_a_file_that_is_no_measurement_is_named(bitbudget: Run, manifest_file: Path) -> None:
    answer = bitbudget("allocate", manifest_file, "--budget", "1MB", "--json")
    assert answer.code == 2
    assert str(manifest_file) in answer.document["detail"]


def test_the_frontier_falls_and_is_written_as_csv(
    bitbudget: Run, measurement_file: Path, tmp_path: Path
) -> None:
    table, page = tmp_path / "frontier.csv", tmp_path / "frontier.html"
    answer = bitbudget("frontier", measurement_file, "--csv", table, "--plot", page, "--json")
    points = answer.document["breakpoints"]
    assert len(points) > 5
    for before, after in pairwise(points):
        assert before["file_bytes"] < after["file_bytes"]
        assert before["kl_nats_per_token"] >= after["kl_nats_per_token"]
    lines = table.read_text().splitlines()
    assert lines[0] == "kind,name,file_bytes,kl_nats_per_token"
    assert sum(line.startswith("frontier,") for line in lines) == len(points)
    assert "Plotly.newPlot" in page.read_text()
    assert "best allocations" in bitbudget("frontier", measurement_file).out
