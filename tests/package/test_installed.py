"""The wheel at work: command line, pages, database, kernels and the demo."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.package.conftest import REPOSITORY, Installed

pytestmark = [pytest.mark.package, pytest.mark.e2e]
BUDGET_BYTES = 3_270_752
PAGES = ("/", "/models", "/compare", "/benchmarks", "/machines", "/docs", "/openapi.json")


def test_nothing_comes_from_the_checkout(complete: Installed) -> None:
    where = complete.run("python", "-c", "import bitbudget.app; print(bitbudget.app.__file__)")
    assert not Path(where.strip()).is_relative_to(REPOSITORY)
    assert Path(where.strip()).is_relative_to(complete.folder)


def test_the_base_install_has_a_command_line(base: Installed) -> None:
    assert "Usage" in base.run("bitbudget", "--help")
    assert "[worker] extra" in base.run("bitbudget", "doctor")


def test_the_base_install_says_what_a_command_lacks(base: Installed) -> None:
    program = str(base.folder / "bin" / "bitbudget")
    ran = subprocess.run(
        [program, "serve"], capture_output=True, text=True, env=base.environment(), check=False
    )
    assert ran.returncode != 0
    assert "pip install 'mlx-bitbudget[server]'" in " ".join((ran.stdout + ran.stderr).split())


def test_the_base_install_fits_a_model_as_mlx_lm_does(base: Installed, complete: Installed) -> None:
    model = base.run(
        "python", "-c", "from bitbudget.samples import sample_model; print(sample_model())"
    ).strip()
    asked = ("bitbudget", "fit", model, "--device", "m4-pro-24gb", "--json")
    by_names, by_class = (json.loads(installed.run(*asked)) for installed in (base, complete))
    told = {"modules_from", "efforts"}
    assert by_names["modules_from"] == "names in the headers"
    assert by_class["modules_from"] == "mlx-lm's class"
    assert by_names["smallest"]["file_bytes"] == 2_369_632
    assert {k: v for k, v in by_names.items() if k not in told} == {
        k: v for k, v in by_class.items() if k not in told
    }


def test_the_native_kernels_load(complete: Installed) -> None:
    assert complete.run(
        "python",
        "-c",
        "from bitbudget.workers.native.build import library_path, targets\n"
        "assert all(library_path(target).exists() for target in targets())\n"
        "from bitbudget.workers.native.loader import kernels\n"
        "print(kernels())",
    )


def test_migrations_are_applied_by_alembic(complete: Installed) -> None:
    assert (
        complete.run(
            "python",
            "-c",
            "from bitbudget.app.server.tables import Base\n"
            "from bitbudget.app.storage import migrate\n"
            "from bitbudget.app.storage.database import Database\n"
            "database = Database('sqlite:///migrated.sqlite')\n"
            "migrate.upgrade(database)\n"
            "differences = migrate.schema_differences(database, Base.metadata)\n"
            "print(migrate.is_current(database), differences)",
        ).strip()
        == "True []"
    )


def test_every_page_is_served(complete: Installed, server: str) -> None:
    token = Path(complete.environment()["BITBUDGET_HOME"], "token").read_text().strip()
    mine = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=server, headers=mine) as client:
        answers = {page: client.get(page) for page in (*PAGES, "/readyz")}
        assert {page: answer.status_code for page, answer in answers.items()} == dict.fromkeys(
            (*PAGES, "/readyz"), 200
        )
        assets = assets_of(answers["/"].text)
        assert any("icon.svg" in asset for asset in assets)
        assert [asset for asset in assets if client.get(asset).status_code != 200] == []


def test_a_server_without_its_files_is_not_ready(complete: Installed) -> None:
    (icon,) = complete.folder.glob("lib/python3*/site-packages/bitbudget/app/**/icon.svg")
    hidden = icon.rename(icon.with_suffix(".hidden"))
    try:
        with serving(complete) as address:
            answer = httpx2.get(f"{address}/readyz")
    finally:
        hidden.rename(icon)
    assert answer.status_code == 503
    assert "dashboard" in answer.json()["detail"]


def test_a_job_of_the_sample_becomes_a_checkpoint(complete: Installed, server: str) -> None:
    model = complete.run(
        "python", "-c", "from bitbudget.samples import sample_model; print(sample_model())"
    ).strip()
    with working(complete, server):
        output = complete.run(
            *("bitbudget", "submit", model, "--server", server, "--wait", "--json"),
            *("--budget", str(BUDGET_BYTES), "--deliver", "checkpoint"),
            *("--sensitivity", "weights", "--encoder", "minmax"),
        )
    job = json.loads(output)
    assert job["status"] == "succeeded"
    assert 0 < job["result"]["file_bytes"] <= BUDGET_BYTES


@pytest.mark.slow
def test_the_demo_fits_its_budget(complete: Installed) -> None:
    document = json.loads(complete.run("bitbudget", "demo", "--json", timeout_seconds=900))
    assert document["file_bytes"] <= document["budget_bytes"]
    files = Path(document["checkpoint"]).glob("*.safetensors")
    assert sum(file.stat().st_size for file in files) == document["file_bytes"]


@pytest.fixture(scope="module")
def server(complete: Installed) -> Iterator[str]:
    """The address of a server that runs from the wheel."""
    with serving(complete) as address:
        yield address


@contextmanager
def working(installed: Installed, server: str) -> Iterator[None]:
    """Keep a worker of `server` running."""
    command = [str(installed.folder / "bin" / "bitbudget"), "worker", "--server", server]
    with subprocess.Popen(command, cwd=installed.folder, env=installed.environment()) as process:
        try:
            yield
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def serving(installed: Installed) -> Iterator[str]:
    """Give the address of a server while it runs."""
    command = [str(installed.folder / "bin" / "bitbudget"), "serve", "--port", "0", "--json"]
    with subprocess.Popen(
        command,
        cwd=installed.folder,
        env=installed.environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["address"]
        finally:
            process.terminate()
            process.wait(20)


def assets_of(page: str) -> list[str]:
    """Return the addresses below `/static` that a page asks for."""
    return [part.split('"')[0] for part in page.split('"') if part.startswith("/static/")]
