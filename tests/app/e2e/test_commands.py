from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitbudget.app.cli.demo import UNIFORM_BYTES

pytestmark = pytest.mark.e2e
Command = Callable[..., dict[str, Any]]


@pytest.fixture
def bitbudget(tmp_path: Path) -> Command:
    """Run a command in a process of its own; its standard output is one JSON object."""

    def run(*words: object, code: int = 0) -> dict[str, Any]:
        ran = subprocess.run(
            [sys.executable, "-m", "bitbudget.app.cli", *map(str, words), "--json"],
            env={**os.environ, "BITBUDGET_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == code, ran.stderr
        assert "Traceback" not in ran.stderr
        return dict(json.loads(ran.stdout))

    return run


def test_from_a_folder_to_a_checkpoint_whose_formats_stock_mlx_lm_repeats(
    bitbudget: Command, sample_model: Path, tmp_path: Path
) -> None:
    manifest, ours, stock = (tmp_path / name for name in ("manifest.json", "ours", "stock"))
    allocated = bitbudget(
        "allocate", sample_model, "--sensitivity", "weights", "--budget", "4MB", "-o", manifest
    )
    assert allocated["file_bytes"] <= 4_000_000
    made = bitbudget("quantize", sample_model, "--manifest", manifest, "-o", ours)
    assert made["file_bytes"] == allocated["file_bytes"]
    on_disk = sum(file.stat().st_size for file in ours.glob("*.safetensors"))
    assert on_disk == allocated["file_bytes"]
    checks = bitbudget("manifest", "verify", manifest, "--checkpoint", ours)["checks"]
    assert len(checks) == 8
    again = bitbudget("quantize", sample_model, "--manifest", manifest, "-o", ours, code=1)
    assert str(ours) in again["detail"]

    apply = ("manifest", "apply", manifest, "--model", sample_model, "-o", stock)
    script = bitbudget(*apply)["python"]
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert formats(stock) == formats(ours)
    assert bitbudget("manifest", "verify", manifest, "--checkpoint", stock)["ok"]


def formats(checkpoint: Path) -> dict[str, Any]:
    """Each module's entry in config.json, spelt out."""
    config = json.loads((checkpoint / "config.json").read_bytes())["quantization"]
    return {
        path: {"mode": "affine", **entry} for path, entry in config.items() if "." in path and entry
    }


def test_fit_reads_headers_only(bitbudget: Command, sample_model: Path) -> None:
    report = bitbudget("fit", sample_model, "--device", "m4-pro-24gb", "--context", 512)
    assert report["now"]["fits"]
    assert report["smallest"]["file_bytes"] < report["now"]["file_bytes"]
    uniform = {choice["name"]: choice["file_bytes"] for choice in report["uniform"]}
    assert uniform["affine4g64"] == UNIFORM_BYTES  # the demo's budget
    unknown = bitbudget("fit", sample_model, "--device", "abacus", code=2)
    assert "abacus" in unknown["detail"]


def test_a_folder_that_is_no_model_is_one_clear_message(bitbudget: Command, tmp_path: Path) -> None:
    problem = bitbudget("measure", tmp_path, code=1)
    assert "config.json" in problem["detail"]
    assert problem["type"].startswith("urn:bitbudget:problem:")
