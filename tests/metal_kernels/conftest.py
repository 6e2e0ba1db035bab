"""The kernels' tests run on the emulator."""

from __future__ import annotations

from tests.metal_emulator.conftest import emulator

__all__ = ["emulator"]
