"""Peak memory of rotating a model against its size: a layer or a shard, not the model.

`python -m bitbudget.workers.native.preload -m benchmarks.rotation_memory` writes synthetic models
of the same layers in different numbers, rotates each in a process of its own that is told it has
little memory, and prints the peak of that process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import Shape, write_checkpoint
from bitbudget.app.core.requests import Rotation
from bitbudget.workers.models import open_checkpoint
from bitbudget.workers.rotate import rotate_checkpoint

SHAPE = Shape(1024, 3072, 0, 16, 8, 128, 16384, tied=True)
MEMORY_BYTES = 2**20
"""What the rotation is told: too little for the model to write its own text."""


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def rotate(folder: Path, kind: Rotation, answer: Any) -> None:
    """Rotate the model in `folder`; send what it took."""
    before, began = _peak_bytes(), time.process_time()
    _, report = rotate_checkpoint(
        open_checkpoint(folder), folder.parent / "twin", kind, memory_bytes=MEMORY_BYTES
    )
    answer.send(
        {
            "peak_bytes": _peak_bytes(),
            "before_bytes": before,
            "cpu_seconds": time.process_time() - began,
            "kl_nats_per_token": report.kl_nats_per_token,
            "noise_floor_nats_per_token": report.noise_floor_nats_per_token,
            "tokens": report.tokens,
        }
    )


def measured(layers: int, kind: Rotation) -> dict[str, Any]:
    """Return what rotating a model of `layers` takes, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        size = write_checkpoint(folder, replace(SHAPE, layers=layers)).stat().st_size
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=rotate, args=(folder, kind, sender))
        process.start()
        sender.close()
        found: dict[str, Any] = receiver.recv()
        process.join()
    return {"layers": layers, "rotation": kind.value, "file_bytes": size, **found}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", nargs="*", type=int, default=[14, 28, 56])
    parser.add_argument("--rotation", type=Rotation, default=Rotation.FOLDED)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    rows = []
    for layers in options.layers:
        row = measured(layers, options.rotation)
        rows.append(row)
        print(
            f"{row['layers']:4d} layers {row['rotation']:7s} bf16 files"
            f" {row['file_bytes'] / 2**20:7.0f} MiB  peak {row['peak_bytes'] / 2**20:6.0f} MiB"
            f" ({row['before_bytes'] / 2**20:.0f} before)  {row['cpu_seconds']:.0f} CPU s"
            f"  KL {row['kl_nats_per_token']:.1e}, floor {row['noise_floor_nats_per_token']:.1e}",
            flush=True,
        )
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "rotation-memory.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
