"""Rows of quality.py for recovery: the product's own checkpoints at a peer's bytes, trained or not.

Unlike the other rows, which are allocated and coded in memory, these go the whole way of a user:
`bitbudget allocate`, `bitbudget quantize --recover`, and the finished files are read back.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality_model import Model, file_bytes, judge

__all__ = ["Made", "made_at"]


@dataclass(frozen=True, slots=True)
class Made:
    """A checkpoint of ours at `nbytes`; `how` is none or scales."""

    how: str
    seconds: float
    nbytes: int

    @property
    def label(self) -> str:
        """The row's name."""
        return "ours" if self.how == "none" else f"ours {self.how} {self.seconds:g} s"


def made_at(model: Model, made: Made, scratch: Path) -> dict[str, Any]:
    """Return the row of one checkpoint of ours, which is made unless `scratch` holds it whole.

    Raises ValueError when it is larger than asked for, CalledProcessError when making it fails.
    """
    out = (scratch / f"{made.nbytes}-{made.label.replace(' ', '-')}").resolve()
    result = out.with_name(out.name + ".json")
    if not result.is_file():
        shutil.rmtree(out, ignore_errors=True)
        printed = _quantize(model.checkpoint.folder, made, out, scratch)
        draft = result.with_suffix(".part")
        draft.write_text(printed)
        draft.replace(result)
    if (found := file_bytes(out)) > made.nbytes:
        message = f"{out} has {found} bytes, {made.nbytes} were asked for"
        raise ValueError(message)
    report = model.evaluation.sets_of(out)["text"]
    recovery = json.loads(result.read_text()).get("recovery")
    return judge(made.label, found, model, report) | {"recovery": recovery}


def _quantize(folder: Path, made: Made, out: Path, scratch: Path) -> str:
    manifest = scratch / f"{made.nbytes}.manifest.json"
    if not manifest.is_file():
        arguments = ["--budget", str(made.nbytes), "--sqnr-floor", "0", "-o", str(manifest)]
        _bitbudget(["allocate", str(folder), *arguments], scratch)
    arguments = ["--manifest", str(manifest), "-o", str(out), "--recover", made.how]
    arguments += ["--recover-seconds", str(made.seconds)]
    return _bitbudget(["quantize", str(folder), *arguments], scratch)


def _bitbudget(arguments: Sequence[str], scratch: Path) -> str:
    scratch.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bitbudget.app.cli", *arguments, "--json"]
    environment = {**os.environ, "BITBUDGET_HOME": str((scratch / "home").resolve())}
    with (scratch / "log.txt").open("a") as log:
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
    return done.stdout
