"""Write new arrays over old ones in a checkpoint's files: no byte more or less.

A kill leaves the old or the new checkpoint. New files are first written beside the old ones, then
`RECORD` says that they are whole, then they take the old ones' places; `finish` does what a killed
run left of that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from bitbudget.workers.recovery.state import forget

__all__ = ["RECORD", "finish", "patch"]

RECORD: Final = "recovery.json"
_DRAFT: Final = ".recovered"


def patch(checkpoint: Path, arrays: Mapping[str, np.ndarray], record: bytes) -> None:
    """Write `arrays` over those of the same name in `checkpoint`, and `record` as its record.

    Raises ValueError when an array has another size than the stored one.
    """
    for file in sorted(checkpoint.glob("*.safetensors")) if arrays else ():
        _write(file.with_name(file.name + _DRAFT), _patched(file, arrays))
    _write(checkpoint / (RECORD + ".part"), record)
    (checkpoint / (RECORD + ".part")).replace(checkpoint / RECORD)
    finish(checkpoint)


def finish(checkpoint: Path) -> None:
    """Put new files in place if the record says they are whole, else remove them."""
    whole = (checkpoint / RECORD).is_file()
    for draft in sorted(checkpoint.glob(f"*{_DRAFT}")):
        if whole:
            draft.replace(draft.with_name(draft.name.removesuffix(_DRAFT)))
        else:
            draft.unlink()
    if whole:
        forget(checkpoint)
    (checkpoint / (RECORD + ".part")).unlink(missing_ok=True)


def _patched(file: Path, arrays: Mapping[str, np.ndarray]) -> bytearray:
    data = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8:start]))
    for name in sorted(header.keys() & arrays.keys()):
        begin, end = header[name]["data_offsets"]
        new = np.ascontiguousarray(arrays[name]).tobytes()
        if len(new) != end - begin:
            message = f"{name}: {len(new)} bytes, {end - begin} in the file"
            raise ValueError(message)
        data[start + begin : start + end] = new
    return data


def _write(path: Path, data: bytes | bytearray) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
