"""What is trained after quantization."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Recover"]


class Recover(StrEnum):
    """What is trained after quantization, in the same bytes: nothing, or its floats."""

    NONE = "none"
    SCALES = "scales"
