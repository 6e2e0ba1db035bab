"""Where a training stands, kept beside a checkpoint so that a killed one goes on from there.

The arrays are written first, under a name of their own; then `state.json`, which names them, takes
the place of the one before. A kill leaves the old state or the new one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx.utils import tree_flatten

from bitbudget.app.core.canonical import JsonObject

__all__ = ["StateFolder", "forget"]

_FOLDER: Final = ".recovery"
_RECORD: Final = "state.json"


class StateFolder:
    """The state of the training of one checkpoint; one for another `key` is not taken up."""

    def __init__(self, checkpoint: Path, key: JsonObject) -> None:
        self.folder, self.key = checkpoint / _FOLDER, json.loads(json.dumps(key))

    def write(self, arrays: Any, numbers: JsonObject) -> None:
        """Store a tree of arrays and whatever JSON holds, in place of what was there."""
        self.folder.mkdir(exist_ok=True)
        before = set(self.folder.glob("*.safetensors"))
        file = self.folder / f"{numbers['steps']}.safetensors"
        mx.save_safetensors(str(file), dict(tree_flatten(arrays)))
        draft = self.folder / (_RECORD + ".part")
        draft.write_text(json.dumps({"key": self.key, "arrays": file.name, "numbers": numbers}))
        draft.replace(self.folder / _RECORD)
        for old in before - {file}:
            old.unlink()

    def read(self) -> tuple[dict[str, mx.array], JsonObject] | None:
        """Return arrays by their dotted place in the tree, and the rest.

        None where nothing was stored for this key.
        """
        record = self.folder / _RECORD
        if not record.is_file():
            return None
        found = json.loads(record.read_bytes())
        if found["key"] != self.key:
            return None
        arrays: dict[str, mx.array] = mx.load(str(self.folder / found["arrays"]))  # type: ignore[assignment]
        mx.eval(arrays)
        return arrays, found["numbers"]


def forget(checkpoint: Path) -> None:
    """Remove what is kept of a training that is over."""
    shutil.rmtree(checkpoint / _FOLDER, ignore_errors=True)
