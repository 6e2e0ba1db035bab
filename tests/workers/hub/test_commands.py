"""The command line against a server that speaks the Hub's API, through real child processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.shards import in_three_shards
from tests.workers.hub.hub_server import Fault, HubServer

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def bitbudget(server: HubServer, tmp_path: Path) -> Any:
    def run(*words: object, code: int = 0) -> dict[str, Any]:
        environment = {
            **os.environ,
            "BITBUDGET_HOME": str(tmp_path / "home"),
            "HF_ENDPOINT": server.endpoint,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN": "hf_mine",
            "HF_HUB_DISABLE_XET": "1",
        }
        finished = subprocess.run(
            [sys.executable, "-m", "bitbudget.app.cli", *map(str, words), "--json"],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == code, finished.stdout + finished.stderr
        assert "Traceback" not in finished.stderr
        return dict(json.loads(finished.stdout))

    return run


def test_measure_allocate_quantize_and_upload_with_a_fraction_of_the_disk(
    server: HubServer, bitbudget: Any, sample_model: Path, tmp_path: Path
) -> None:
    shards = in_three_shards(sample_model, tmp_path / "shards")
    commit = server.repository("org/tiny", token="hf_mine").put_folder(shards)
    sizes = [path.stat().st_size for path in shards.glob("*.safetensors")]
    limit = max(sizes) + 1
    server.faults.append(Fault("cdn GET", times=3, drop_after=100_000))

    refused = bitbudget("measure", "org/tiny", "--disk-limit", limit, code=2)
    assert "--disk-limit" in refused["detail"]
    assert server.bytes_sent < 500_000

    weights = ("--sensitivity", "weights", "--disk-limit", limit)
    measured = tmp_path / "measurement.json"
    bitbudget("measure", "org/tiny", *weights, "-o", measured)
    manifest = tmp_path / "manifest.json"
    bitbudget("allocate", measured, "--budget", "4MB", "-o", manifest)
    assert json.loads(manifest.read_bytes())["model"]["revision"] == commit
    made = bitbudget(
        *("quantize", f"org/tiny@{commit}", "--manifest", manifest),
        *("-o", tmp_path / "out", "--disk-limit", limit),
    )
    assert made["file_bytes"] <= 4_000_000
    kept = sum(path.stat().st_size for path in (tmp_path / "home").rglob("*.safetensors"))
    assert kept <= limit

    sent = bitbudget("upload", tmp_path / "out", "me/tiny-4mb")
    files = server.repositories["me/tiny-4mb"].commits[sent["revision"]]
    assert files["manifest.json"].content == manifest.read_bytes().strip()
    assert set(files) - {".gitattributes"} == {path.name for path in (tmp_path / "out").iterdir()}
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"README.md", "tokenizer.json"}


def test_what_the_hub_refuses_is_told_without_a_traceback(
    server: HubServer, bitbudget: Any, sample_model: Path
) -> None:
    server.repository("org/gated", gated=True).put_folder(sample_model)
    assert bitbudget("measure", "org/gated", code=1)["status"] == 403
    assert bitbudget("measure", "org/none", code=1)["status"] == 404
    assert "secret" not in json.dumps(bitbudget("measure", "org/none@v1", code=1))
