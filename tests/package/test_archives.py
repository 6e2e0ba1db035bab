"""What the source distribution and the wheel hold."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

from tests.package.conftest import REPOSITORY, Built

pytestmark = pytest.mark.package
LINKED = ("app", "metal_kernels", "migrations", "workers")


def test_only_bitbudget_is_at_the_top_of_site_packages(built: Built) -> None:
    tops = {name.split("/")[0] for name in wheel_names(built)}
    assert tops == {"bitbudget", "mlx_bitbudget-0.1.0.dist-info"}


def test_every_file_of_every_package_is_in_the_wheel(built: Built) -> None:
    assert expected_files() - wheel_names(built) == set()


def test_the_native_libraries_are_in_the_wheel_and_not_in_the_source_distribution(
    built: Built,
) -> None:
    libraries = (".so", ".dylib")
    assert [name for name in wheel_names(built) if name.endswith(libraries)]
    with tarfile.open(built.sdist) as archive:
        assert [name for name in archive.getnames() if name.endswith(libraries)] == []


def test_links_are_files_in_the_source_distribution(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        members = {m.name.split("/", 1)[-1]: m for m in archive.getmembers()}
    assert {"LICENSE", "CHANGELOG.md", "README.md", "setup.py"} <= set(members)
    assert all(members[f"bitbudget/{folder}"].isdir() for folder in LINKED)
    assert expected_files() - set(members) == set()


def test_the_metadata_says_what_an_index_shows(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        text = archive.read("mlx_bitbudget-0.1.0.dist-info/METADATA").decode()
        assert "mlx_bitbudget-0.1.0.dist-info/licenses/LICENSE" in archive.namelist()
    metadata = message_from_string(text)
    assert metadata["Name"] == "mlx-bitbudget"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "](docs/" not in metadata.get_payload()


@pytest.mark.skipif(sys.platform != "linux", reason="auditwheel reads Linux libraries")
def test_the_libraries_need_no_newer_linux_than_the_tag_says(built: Built) -> None:
    assert "-py3-none-manylinux2014_" in built.wheel.name
    ran = subprocess.run(
        [str(Path(sys.executable).with_name("auditwheel")), "show", str(built.wheel)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = " ".join(ran.stdout.split())
    assert ran.returncode == 0, ran.stderr
    assert "references no external versioned symbols" in said, said


def wheel_names(built: Built) -> set[str]:
    with zipfile.ZipFile(built.wheel) as archive:
        return set(archive.namelist())


def expected_files() -> set[str]:
    """Return the installed names of what git tracks in the packages."""
    tracked = subprocess.run(
        ["git", "ls-files", "bitbudget", *LINKED],  # noqa: S607 - git is found on PATH
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    files = [name for name in tracked if not (REPOSITORY / name).is_symlink()]
    return {name if name.startswith("bitbudget/") else f"bitbudget/{name}" for name in files}
