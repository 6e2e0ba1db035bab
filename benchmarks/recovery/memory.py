r"""What a step of recovery holds in memory, whole and layer by layer.

    python -m benchmarks.recovery.memory CHECKPOINT ORIGINAL [--tokens 128]

Prints one JSON object: for each way MLX's peak of one gradient in bytes, and a weight of the
model; what is held between steps with AdamW's state counts, activations of so many tokens, too.
"""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import optimizers

from bitbudget.workers.recovery.by_layers import layer_gradients
from bitbudget.workers.recovery.divergence import cross_entropy
from bitbudget.workers.recovery.student import Student, Values
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.numpy_functions import by_numpy
from bitbudget.workers.running.streaming_forward import Unheld


def peak(student: Student, ids: mx.array, target: mx.array) -> tuple[int, int]:
    """Return bytes held between steps, and the most in a step."""

    def loss(moved: Values) -> mx.array:
        model: Any = student.apply(moved)
        value: Any = cross_entropy(model(ids), target)
        return value  # type: ignore[no-any-return]

    values = student.values()
    adam = optimizers.AdamW(1e-3)
    adam.init(values)
    mx.eval(values, adam.state)
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    held = mx.get_active_memory()
    with by_numpy():
        if student.whole:
            gradient = mx.grad(loss)(values)
        else:
            gradient = layer_gradients(student, values, ids, target)
        mx.eval(gradient)
    return held, mx.get_peak_memory()


def main() -> None:
    """Print the peaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("original", type=Path)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    ids = mx.arange(options.tokens)[None]
    target = mx.softmax(Unheld(options.original)(ids), axis=-1)
    mx.eval(target)
    found: dict[str, Any] = {}
    for name, whole in (("by layer", False), ("whole", True)):
        student = Student(options.checkpoint, load_float32(options.original), whole=whole)
        held, most = peak(student, ids, target)
        found[name] = {"held_bytes": held, "peak_bytes": most}
        del student
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
