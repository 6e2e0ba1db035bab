"""Models that were never here, read by a real child process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bitbudget.app.server.main import create_app
from bitbudget.app.server.settings import Settings
from tests.support.http import FakeClock, Server, opened
from tests.workers.hub.hub_server import HubServer

ASKED = {"device": "m4-pro-24gb", "context": 256}


@pytest.fixture
def database_url(sqlite_template: Path, tmp_path: Path) -> str:
    (tmp_path / "bitbudget.db").write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{tmp_path / 'bitbudget.db'}"


@pytest.fixture
def reader(database_url: str, tmp_path: Path, sample_model: Path) -> Iterator[Server]:
    """A server that reads headers, of folders beside the sample model only."""
    settings = Settings(
        home=tmp_path,
        database_url=database_url,
        sweep_seconds=3600,
        model_roots=str(sample_model.parent),
    )
    app = create_app(settings, clock=FakeClock())
    with opened(app) as http:
        yield Server(http, app.state.services, FakeClock())


def test_a_folder_is_answered_from_its_headers(reader: Server, sample_model: Path) -> None:
    body = {"model": str(sample_model), **ASKED}
    answer = reader.http.post("/v1/fit", json=body)
    assert answer.status_code == 200, answer.text
    weights = sum(path.stat().st_size for path in sample_model.glob("*.safetensors"))
    assert abs(answer.json()["now"]["file_bytes"] / weights - 1) < 0.01
    form = {"model": str(sample_model), "budget": "3MB"}
    assert reader.http.get("/fit", params=form).json()["verdict"] == "waiting"
    said = reader.http.get("/fit", params={**form, "settled": "true"}).json()
    assert said["verdict"] == "fits"
    assert "measured first" in said["words"]


def test_a_hub_model_is_answered_from_its_headers(
    reader: Server, sample_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer() as hub:
        hub.repository("org/tiny").put_folder(sample_model)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        answer = reader.http.post("/v1/fit", json={"model": "org/tiny", **ASKED})
        missing = reader.http.post("/v1/fit", json={"model": "org/none", **ASKED})
    assert answer.status_code == 200, answer.text
    assert (missing.status_code, missing.json()["title"]) == (422, "Unreadable model")
    assert "org/none" in missing.json()["detail"]


def test_what_is_no_model_or_lies_elsewhere_is_refused(
    reader: Server, sample_model: Path, tmp_path: Path
) -> None:
    outside = reader.http.post("/v1/fit", json={"model": str(tmp_path), **ASKED})
    assert outside.status_code == 422
    assert "BITBUDGET_MODEL_ROOTS" in outside.json()["detail"]
    empty = reader.http.post("/v1/fit", json={"model": str(sample_model.parent), **ASKED})
    assert (empty.status_code, empty.json()["title"]) == (422, "Unreadable model")
