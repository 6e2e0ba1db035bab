"""Logits of tiny models here against those that transformers computes, where torch is installed.

    python -m bitbudget.workers.running.against_transformers [TYPE...]

prints one JSON object: the largest difference of each type, as a share of the largest logit, or why
there is none. torch is no dependency of ours: BITBUDGET_TORCH_PYTHON names an interpreter that has
it and transformers, where this one has not.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import mlx.core as mx
import numpy as np

from bitbudget.app.core.errors import BitbudgetError
from bitbudget.workers.running.float32 import load_float32

__all__ = ["SAMPLED", "compare", "difference", "torch_python", "write_models"]

SAMPLED: Final = ("llama", "qwen3", "qwen3_moe", "gemma2", "mistral", "phi3", "gpt2", "olmo2")
"""The types that are compared where none is named."""

_MOST_SECONDS: Final = 600


def torch_python() -> str | None:
    """Return the interpreter that has torch and transformers, None where none is known."""
    stated = os.environ.get("BITBUDGET_TORCH_PYTHON")
    return stated or (None if importlib.util.find_spec("torch") is None else sys.executable)


def write_models(python: str, folder: Path, model_types: Sequence[str]) -> dict[str, str]:
    """Write a tiny model of each type with its logits into `folder`; return why some could not be.

    Raises CalledProcessError where the interpreter `python` has no torch.
    """
    script = Path(__file__).with_name("transformers_models.py")
    command = [python, str(script), str(folder), *model_types]
    subprocess.run(command, check=True, timeout=_MOST_SECONDS, capture_output=True)
    failures: dict[str, str] = json.loads((folder / "failures.json").read_text())
    return failures


def difference(folder: Path) -> float:
    """Return the largest difference of logits, as a share of the largest logit."""
    tokens = mx.array(np.load(folder / "tokens.npy"))
    found = np.array(load_float32(folder)(tokens).astype(mx.float32))
    expected = np.load(folder / "logits.npy")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def compare(python: str, model_types: Sequence[str] = SAMPLED) -> dict[str, float | str]:
    """Return the difference of each type, or the reason why there is none."""
    with TemporaryDirectory() as name:
        found: dict[str, float | str] = dict(write_models(python, Path(name), model_types))
        for model_type in model_types:
            if model_type not in found:
                try:
                    found[model_type] = difference(Path(name) / model_type)
                except BitbudgetError as error:
                    found[model_type] = str(error)
    return found


if __name__ == "__main__":
    known = torch_python()
    json.dump({} if known is None else compare(known, sys.argv[1:] or SAMPLED), sys.stdout)
