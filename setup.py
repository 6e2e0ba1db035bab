"""Compile the kernels while the package is installed; everything else is in pyproject.toml."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bitbudget.workers.native.build import build as build_native


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

    def finalize_options(self) -> None:
        """Mark the wheel as holding machine code."""
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        """Return the compatibility tag."""
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build": Build, "build_native": BuildNative, "bdist_wheel": PlatformWheel})
