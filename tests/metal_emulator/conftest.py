"""Skips what needs clang 19 where it is missing."""

from __future__ import annotations

import pytest

from tests.metal_emulator.toolchain import compiler


@pytest.fixture(scope="session")
def emulator() -> None:
    """The emulator's compiler is there."""
    if compiler() is None:
        pytest.skip("clang++-19 is not installed (Debian: clang-19), so no Metal kernel can run")
