"""The distribution as a user gets it: built, then installed where the sources are not."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Built:
    """The files that are uploaded to a package index."""

    sdist: Path
    wheel: Path


@dataclass(frozen=True)
class Installed:
    """A fresh environment with the wheel, and a folder that holds nothing of the repository."""

    folder: Path

    def run(self, *command: str, timeout_seconds: float = 300) -> str:
        """Return the output of a program of the environment; AssertionError when it fails."""
        program = [str(self.folder / "bin" / command[0]), *command[1:]]
        ran = subprocess.run(
            program,
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_seconds,
        )
        assert ran.returncode == 0, f"{command}: {ran.stdout}\n{ran.stderr}"
        return ran.stdout

    def environment(self) -> dict[str, str]:
        """Return the variables programs start with: nothing that leads to the sources."""
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return {**kept, "BITBUDGET_HOME": str(self.folder / "home")}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The source distribution, and the wheel that is made from it rather than from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(REPOSITORY)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Built(sdist, wheel)


@pytest.fixture(scope="session")
def base(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel without any extra."""
    return install(str(built.wheel), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def complete(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel with everything that one machine needs to serve and to compute."""
    return install(f"{built.wheel}[server,worker]", tmp_path_factory.mktemp("complete"))


def install(requirement: str, folder: Path) -> Installed:
    """Install into a new environment in `folder`, at the versions of `constraints.txt`."""
    venv.create(folder, with_pip=True)
    constraints = str(REPOSITORY / "constraints.txt")
    Installed(folder).run("pip", "install", "--quiet", "-c", constraints, requirement)
    return Installed(folder)
