"""What docs/operations.md and the files of deployment say, done."""

from __future__ import annotations

import os
import plistlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bitbudget.app.core.measurement import Measurement
from bitbudget.app.server.main import create_app
from bitbudget.app.server.settings import Settings
from tests.support.http import FakeClock, Server, opened
from tests.support.postgres import Cluster, find_binaries

REPOSITORY = Path(__file__).parents[3]
GUIDE = REPOSITORY / "docs" / "operations.md"
DEPLOYMENT = ("Dockerfile", "docker-compose.yml", "docs/operations.md")
OF_CLIENTS = {"BITBUDGET_SERVER", "BITBUDGET_TOKEN"}
OF_COMPOSE = {"BITBUDGET_PUBLISH", "BITBUDGET_MODELS"}


@dataclass(frozen=True)
class Place:
    """A server's database and home."""

    url: str
    home: Path

    def run(self, script: str, backup: Path) -> None:
        programs = [str(find_binaries() or ""), os.environ["PATH"]]
        environment = {
            **os.environ,
            "PATH": os.pathsep.join(programs),
            "BITBUDGET_HOME": str(self.home),
            "BITBUDGET_DATABASE_URL": self.url,
            "BACKUP": str(backup),
        }
        subprocess.run(["/bin/bash", "-euc", script], env=environment, check=True)


@pytest.fixture
def another(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> Iterator[Place]:
    """An empty place of the same kind as the server's."""
    home = tmp_path / "new"
    if database_url.startswith("sqlite"):
        yield Place(f"sqlite:///{home / 'bitbudget.db'}", home)
        return
    cluster: Cluster = request.getfixturevalue("postgres_cluster")
    yield Place(cluster.create_database("restored"), home)
    cluster.drop_database("restored")


def test_a_backup_taken_while_serving_restores_everything(
    server: Server, measurement: Measurement, tmp_path: Path, database_url: str, another: Place
) -> None:
    job = server.submit()
    worker = server.worker()
    worker.claim()
    worker.do(measurement)
    manifest = server.http.get(f"/v1/jobs/{job['id']}/manifest").content
    scripts = re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    backup, restore = scripts[:2] if database_url.startswith("sqlite") else scripts[2:]
    (tmp_path / "backup").mkdir()
    Place(database_url, tmp_path).run(backup, tmp_path / "backup")
    lost = server.submit(model="org/later")
    another.run(restore, tmp_path / "backup")
    app = create_app(
        Settings(home=another.home, database_url=another.url, sweep_seconds=3600),
        clock=FakeClock(),
    )
    with opened(app) as http:
        assert http.get(f"/v1/jobs/{job['id']}/manifest").content == manifest
        assert http.get(f"/v1/jobs/{lost['id']}").status_code == 404
        body = {"model": "org/model", "budget": "1GiB"}
        assert http.post("/v1/jobs", json=body).json()["status"] == "succeeded"
        assert http.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    "name",
    [*DEPLOYMENT, *(f"deploy/{path.name}" for path in (REPOSITORY / "deploy").iterdir())],
)
def test_every_variable_named_is_a_setting(name: str) -> None:
    named = set(re.findall(r"BITBUDGET_[A-Z_]+[A-Z]", (REPOSITORY / name).read_text()))
    settings = {f"BITBUDGET_{field.upper()}" for field in Settings.model_fields}
    assert named <= settings | OF_CLIENTS | OF_COMPOSE


def test_the_services_build_targets_that_exist_and_use_volumes_that_exist() -> None:
    compose: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    stages = re.findall(
        r"^FROM \S+ AS (\w+)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE
    )
    services = compose["services"]
    assert {service.get("profiles", ["default"])[0] for service in services.values()} == {
        "default",
        "postgres",
        "cpu-worker",
    }
    for service in services.values():
        assert "image" in service or service["build"]["target"] in stages
        volumes = [volume.split(":")[0] for volume in service["volumes"]]
        assert {v for v in volumes if v.isalpha()} <= compose["volumes"].keys()
        assert service.get("depends_on", {}).keys() <= services.keys()


def test_every_file_the_image_copies_is_let_through() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    let_through = (REPOSITORY / ".dockerignore").read_text().splitlines()
    for names in copied:
        for name in names.split():
            assert f"!{name}" in let_through


def test_the_launchd_job_is_a_property_list() -> None:
    job = plistlib.loads((REPOSITORY / "deploy" / "bitbudget.worker.plist").read_bytes())
    assert job["ProgramArguments"][-1] == "worker"
    assert set(job["EnvironmentVariables"]) == OF_CLIENTS
