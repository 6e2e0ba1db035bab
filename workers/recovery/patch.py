"""Write new arrays over old ones in a checkpoint's files: no byte more or less."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

__all__ = ["patch"]


def patch(checkpoint: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `arrays` over those of the same name in the safetensors files of `checkpoint`.

    Every file is replaced whole, so a kill leaves the old or the new one.

    Raises ValueError when an array has another size than the stored one.
    """
    for file in sorted(checkpoint.glob("*.safetensors")):
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
        draft = file.with_suffix(".part")
        draft.write_bytes(data)
        draft.replace(file)
