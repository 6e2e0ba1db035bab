"""The sample model that comes with the package, for the demo and the tests."""

from __future__ import annotations

from pathlib import Path

__all__ = ["sample_model"]


def sample_model() -> Path:
    """Return the folder of `tinyqwen3-dense`, 5.8 million parameters in Hugging Face form."""
    return Path(__file__).resolve().parent / "tinyqwen3-dense"
