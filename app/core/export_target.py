"""The programs that a manifest can be exported for."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Target"]


class Target(StrEnum):
    """A program that quantizes by a recipe of ours."""

    MLX_LM = "mlx-lm"
    LLAMA_CPP = "llama.cpp"
    AUTO_ROUND = "auto-round"
