"""The command line against a server that speaks the Hub's API, through real child processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bitbudget.app.client.client import Client
from bitbudget.app.core.requests import JobRequest
from bitbudget.app.core.sizes import format_size
from tests.support.live import LiveServer, live_server
from tests.support.shards import in_three_shards
from tests.workers.hub.hub_server import Fault, HubServer

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).resolve().parents[3]


def commands(server: HubServer, folder: Path) -> Any:
    """Return a function that runs a command whose state lies in `folder`."""

    def run(*words: object, code: int = 0, **more: str) -> dict[str, Any]:
        environment = {
            **os.environ,
            "BITBUDGET_HOME": str(folder / "home"),
            "HF_ENDPOINT": server.endpoint,
            "HF_HOME": str(folder / "hf"),
            "HF_TOKEN": "hf_mine",
            "HF_HUB_DISABLE_XET": "1",
            **more,
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


@pytest.fixture
def bitbudget(server: HubServer, tmp_path: Path) -> Any:
    return commands(server, tmp_path)


WEIGHTS = ("--sensitivity", "weights", "--encoder", "careful")


@dataclass(frozen=True)
class Measured:
    """What was made of `org/tiny` once: an exported measurement, and the manifest of 4 MB."""

    key: str
    exported: Path
    manifest: Path


@pytest.fixture(scope="module")
def measured(sample_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("measured")
    exported, manifest = folder / "measurement.json", folder / "mine.json"
    with HubServer() as hub:
        hub.repository("org/tiny", token="hf_mine").put_folder(sample_model)
        bitbudget = commands(hub, folder)
        made = bitbudget("measurement", "export", "org/tiny", *WEIGHTS, "-o", exported)
        bitbudget("allocate", "org/tiny", *WEIGHTS, "--budget", "4MB", "-o", manifest)
    return Measured(made["key"], exported, manifest)


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


def test_a_budget_that_cannot_be_is_refused_before_anything_is_downloaded(
    server: HubServer,
    bitbudget: Any,
    sample_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.repository("org/tiny", token="hf_mine").put_folder(sample_model)
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    least = bitbudget("fit", "org/tiny", "--budget", "1MB")["smallest"]["file_bytes"]
    refused = bitbudget("run", "org/tiny", "--budget", "1MB", "-o", tmp_path / "out", code=3)
    asked = {"model": "org/tiny", "budget": "1MB"}
    with live_server(tmp_path / "service", poll_seconds="0.1") as live:
        said = httpx2.get(
            f"{live.url}/fit",
            params={**asked, "settled": "true"},
            headers=live.headers,
            timeout=60,
        ).json()
        with (
            working(server, live, tmp_path / "worker", {}),
            Client(live.url, token=live.token) as client,
        ):
            job = client.submit(JobRequest.model_validate(asked))
            *_, last = client.events(job.id)
    problem: Any = last.data["problem"]
    assert (last.kind, problem["fields"]["minimum_bytes"]) == ("failed", least)
    assert refused["minimum_bytes"] == least
    assert (said["verdict"], format_size(least) in said["words"]) == ("tight", True)
    assert not [*tmp_path.rglob("*.safetensors")]
    assert server.bytes_sent < 1_000_000


def test_what_the_hub_refuses_is_told_without_a_traceback(
    server: HubServer, bitbudget: Any, sample_model: Path
) -> None:
    server.repository("org/gated", gated=True).put_folder(sample_model)
    assert bitbudget("measure", "org/gated", code=1)["status"] == 403
    assert bitbudget("measure", "org/none", code=1)["status"] == 404
    assert "secret" not in json.dumps(bitbudget("measure", "org/none@v1", code=1))


def test_a_measurement_goes_round_the_hub_and_answers_without_weights(
    server: HubServer, bitbudget: Any, measured: Measured, sample_model: Path, tmp_path: Path
) -> None:
    server.repository("org/tiny", token="hf_mine").put_folder(sample_model)
    exported, mine = measured.exported, measured.manifest
    sent = bitbudget("upload", exported, "datasets/me/them", "--measurement")

    other = {"BITBUDGET_HOME": str(tmp_path / "other home")}
    server.requests.clear()
    given = ("--measurement", "datasets/me/them", "--budget", "4MB")
    theirs = tmp_path / "theirs.json"
    bitbudget("allocate", "org/tiny", *given, "-o", theirs, **other)
    assert server.bytes_sent < 500_000
    origin = f"datasets/me/them@{sent['revision']}"
    document = json.loads(theirs.read_bytes())
    assert document.pop("origin") == origin
    assert document == json.loads(mine.read_bytes())
    from_file = tmp_path / "from file.json"
    bitbudget(
        *("allocate", "org/tiny", "--measurement", exported, "--budget", "4MB"),
        *("-o", from_file),
        BITBUDGET_HOME=str(tmp_path / "third home"),
    )
    assert from_file.read_bytes() == mine.read_bytes()
    assert bitbudget("fit", "org/tiny", *given, **other)["measured"]["origin"] == origin

    listed = {
        "BITBUDGET_HOME": str(tmp_path / "fourth home"),
        "BITBUDGET_MEASUREMENT_REPOSITORIES": "me/none,datasets/me/them",
    }
    server.requests.clear()
    found = bitbudget("measure", "org/tiny", *WEIGHTS, **listed)
    assert found["key"] == measured.key
    assert server.bytes_sent < 500_000


def test_a_measurement_of_another_model_is_refused(
    server: HubServer, bitbudget: Any, measured: Measured, sample_model: Path, tmp_path: Path
) -> None:
    server.repository("org/tiny", token="hf_mine").put_folder(sample_model)
    exported = tmp_path / "measurement.json"
    document = json.loads(measured.exported.read_bytes())
    document["model"]["digest"] = "1" * 64
    exported.write_text(json.dumps(document, sort_keys=True, separators=(",", ":")))
    asked = ("allocate", "org/tiny", "--measurement", exported, "--budget", "4MB")
    refused = bitbudget(*asked, code=2)
    assert "model.digest" in refused["detail"]
    assert "1" * 64 in refused["detail"]


def test_jobs_use_measurements_made_elsewhere(
    server: HubServer, bitbudget: Any, measured: Measured, sample_model: Path, tmp_path: Path
) -> None:
    server.repository("org/tiny", token="hf_mine").put_folder(sample_model)
    exported = measured.exported
    sent = bitbudget("upload", exported, "datasets/me/them", "--measurement")
    expected = json.loads(measured.manifest.read_bytes())
    origin = f"datasets/me/them@{sent['revision']}"
    forged = tmp_path / "forged.json"
    document = json.loads(exported.read_bytes())
    document["model"]["digest"] = "1" * 64
    forged.write_text(json.dumps(document, sort_keys=True, separators=(",", ":")))
    elsewhere = {
        "BITBUDGET_HOME": str(tmp_path / "other home"),
        "BITBUDGET_MEASUREMENT_REPOSITORIES": "datasets/me/them",
    }
    server.requests.clear()
    with (
        live_server(tmp_path / "server", poll_seconds="0.1") as live,
        working(server, live, tmp_path / "worker", elsewhere) as log,
    ):
        elsewhere["BITBUDGET_TOKEN"] = live.token

        def submit(*more: object, code: int = 0) -> dict[str, Any]:
            asked = ("org/tiny", "--budget", "4MB", "--server", live.url, "--wait", *more)
            return dict(bitbudget("submit", *asked, code=code, **elsewhere))

        def manifest(job: dict[str, Any]) -> dict[str, Any]:
            with Client(live.url, token=live.token) as client:
                return dict(json.loads(client.manifest(job["id"])))

        given = submit("--measurement", "datasets/me/them")
        assert given["worker"] is not None
        assert manifest(given) == expected | {"origin": origin}
        at_once = submit("--measurement", exported)
        assert at_once["worker"] is None
        assert manifest(at_once) == expected | {"origin": origin}
        wrong = submit("--measurement", forged, code=2)
        assert "1" * 64 in wrong["detail"], log.read_text()
        found = submit(*WEIGHTS)
        assert found["worker"] is not None
        assert manifest(found) == expected | {"origin": origin}
    weights_bytes = sum(file.stat().st_size for file in sample_model.glob("*.safetensors"))
    assert server.bytes_sent < weights_bytes / 10


@contextmanager
def working(
    server: HubServer, live: LiveServer, home: Path, more: dict[str, str]
) -> Iterator[Path]:
    """A worker that sees the Hub of the test; gives the file of its log."""
    home.mkdir()
    command = [sys.executable, "-m", "bitbudget.workers.agent", "--server", live.url]
    hub = {"HF_ENDPOINT": server.endpoint, "HF_TOKEN": "hf_mine"}
    environment = {**os.environ, **more, **hub, "BITBUDGET_TOKEN": live.token}
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--home", str(home)], env=environment, cwd=REPOSITORY, stderr=log
        )
    try:
        yield home / "log"
    finally:
        process.terminate()
        process.wait(60)
