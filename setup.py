"""What pyproject.toml cannot say: compile the kernels, tag the wheel, place the README's links."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import ClassVar, Final

from setuptools import Command, Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

ROOT: Final = Path(__file__).resolve().parent
RELATIVE_LINK: Final = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)")


class BuildNative(Command):
    """Compile the kernels beside their sources, from where a wheel and a checkout take them."""

    user_options: ClassVar[list[tuple[str, str, str]]] = []
    editable_mode = False

    def initialize_options(self) -> None:
        """Take no options."""

    def finalize_options(self) -> None:
        """Take no options."""

    def run(self) -> None:
        """Build every library of this machine."""
        sys.path.insert(0, str(ROOT))
        from bitbudget.workers.native.build import build as build_native  # noqa: PLC0415 - see above

        build_native()

    def get_source_files(self) -> list[str]:
        """Return nothing: the sources are package data already."""
        return []

    def get_outputs(self) -> list[str]:
        """Return nothing: the libraries are package data of the Python packages."""
        return []

    def get_output_mapping(self) -> dict[str, str]:
        """Return nothing: nothing is copied by this command."""
        return {}


class Build(build):
    """Compile before the packages are copied."""

    sub_commands: ClassVar = [("build_native", None), *build.sub_commands]


class PlatformWheel(bdist_wheel):
    """A wheel for any Python 3 on this platform: ctypes needs no Python ABI."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the compatibility tag.

        The kernels call nothing of the C library, so any glibc of manylinux2014 or later serves
        (a test asks auditwheel), and on a Mac the system that they are compiled for.
        """
        kind = super().get_tag()[2]
        if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
            kind = f"manylinux2014_{platform.machine()}.manylinux_2_17_{platform.machine()}"
        elif sys.platform == "darwin" and platform.machine() == "arm64":
            kind = "macosx_14_0_arm64"
        return "py3", "none", kind


class WithMachineCode(Distribution):
    """A distribution that goes to `platlib`."""

    def has_ext_modules(self) -> bool:
        """Say so, although no extension module is linked against Python."""
        return True


def source_address() -> str:
    """Return where this revision can be read: hosted CI says it, elsewhere it is unknown."""
    host, name = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
    return f"{host}/{name}" if host and name else ""


def readme(address: str, revision: str) -> str:
    """Return the README with links that hold outside the repository.

    Relative ones lead to `address`; without one, images go and links become their text.
    """

    def place(match: re.Match[str]) -> str:
        is_image, text, target = match.groups()
        if not address:
            return "" if is_image else text
        return f"{is_image}[{text}]({address}/{'raw' if is_image else 'blob'}/{revision}/{target})"

    return RELATIVE_LINK.sub(place, (ROOT / "README.md").read_text(encoding="utf-8"))


def urls(address: str) -> dict[str, str]:
    """Return the addresses of the package's metadata."""
    if not address:
        return {}
    changes = f"{address}/blob/HEAD/CHANGELOG.md"
    return {"Source": address, "Issues": f"{address}/issues", "Changelog": changes}


ADDRESS: Final = source_address()
setup(
    distclass=WithMachineCode,
    cmdclass={"build": Build, "build_native": BuildNative, "bdist_wheel": PlatformWheel},
    long_description=readme(ADDRESS, os.environ.get("GITHUB_SHA", "HEAD")),
    long_description_content_type="text/markdown",
    project_urls=urls(ADDRESS),
)
