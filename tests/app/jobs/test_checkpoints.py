"""A finished checkpoint is downloaded from the server whose home holds it, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitbudget.app.auth.principal import Principal, Scope
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.http.errors import ForbiddenError
from bitbudget.app.server.settings import Settings
from tests.support.http import Server

WEIGHTS = bytes(range(256)) * 40


@pytest.fixture
def job(server: Server, measurement: Measurement) -> str:
    """A finished job for a checkpoint."""
    made = server.submit(budget="200kB", deliver="checkpoint")
    machine = server.worker()
    machine.claim()
    machine.do(measurement)
    return str(made["id"])


def put(settings: Settings, server: Server, job: str, name: str = "tiny") -> Path:
    """Lay the checkpoint where the demo's worker does, which shares the server's home."""
    digest = server.job(job)["result"]["sha256"]
    folder = settings.home_folder / "checkpoints" / f"{name}-{digest[:12]}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(server.http.get(f"/v1/jobs/{job}/manifest").content)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    return folder


def test_its_files_are_listed_and_downloaded_in_parts(
    server: Server, settings: Settings, job: str
) -> None:
    path = f"/v1/jobs/{job}/checkpoint"
    refused = server.http.get(path)
    assert (refused.status_code, "copy" in refused.json()["detail"]) == (409, True)
    assert "copy" in server.http.get(f"/jobs/{job}").text
    folder = put(settings, server, job)
    (folder / ".hidden").write_text("x")
    (folder / "inner").mkdir()
    (folder / "link.json").symlink_to("/etc/hostname")
    listed = {file["name"]: file["bytes"] for file in server.http.get(path).json()["files"]}
    assert list(listed) == ["manifest.json", "model.safetensors"]
    assert listed["model.safetensors"] == len(WEIGHTS)
    whole = server.http.get(f"{path}/model.safetensors")
    assert (whole.status_code, whole.content) == (200, WEIGHTS)
    assert whole.headers["content-disposition"].startswith("attachment")
    part = server.http.get(f"{path}/model.safetensors", headers={"Range": "bytes=10000-"})
    assert (part.status_code, part.content) == (206, WEIGHTS[10000:])
    for name in (".hidden", "inner", "link.json", "..%2Fconfig", "%2e%2e%2f%2e%2e%2fserver.db"):
        assert server.http.get(f"{path}/{name}").status_code == 404
    page = server.http.get(f"/jobs/{job}").text
    assert f"{path}/{{manifest.json,model.safetensors}}" in page


def test_a_folder_that_a_link_leads_out_of_the_home_to_is_not_served(
    server: Server, settings: Settings, job: str, tmp_path: Path
) -> None:
    folder = put(settings, server, job)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert server.http.get(f"/v1/jobs/{job}/checkpoint").status_code == 409
    assert server.http.get(f"/v1/jobs/{job}/checkpoint/manifest.json").status_code == 409


def test_another_key_may_not_have_it(server: Server, settings: Settings, job: str) -> None:
    put(settings, server, job)
    held = server.services.checkpoints
    stranger = Principal("somebody", frozenset({Scope.JOBS_READ}))
    with pytest.raises(ForbiddenError):
        held.files(job, stranger)
    with pytest.raises(ForbiddenError):
        held.file(job, "manifest.json", stranger)
    admin = Principal("root", frozenset({Scope.ADMIN}))
    assert held.file(job, "manifest.json", admin).name == "manifest.json"


def test_a_job_without_a_checkpoint_says_how_to_get_one(server: Server) -> None:
    job = server.submit()["id"]
    refused = server.http.get(f"/v1/jobs/{job}/checkpoint")
    assert (refused.status_code, "deliver" in refused.json()["detail"]) == (409, True)
