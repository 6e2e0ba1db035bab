"""Peak memory of the statistics pass on a synthetic model several times that size.

`python -m benchmarks.statistics_memory` writes a Llama of random weights, collects its statistics
in a process of its own, and compares that process's peak with the bound
embeddings + 3 x largest layer + activations of one batch + moments of one layer (float32).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models import llama

from bitbudget.workers.fisher import collect_statistics

__all__ = ["Bound", "Shape", "measure_peak", "write_model"]

_FLOAT = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """A synthetic Llama and the tokens it is measured with."""

    layers: int = 24
    hidden: int = 768
    inner: int = 2048
    heads: int = 12
    vocabulary: int = 2048
    sequences: int = 8
    length: int = 128

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(out, in) of the linear modules of a layer."""
        square, up = (self.hidden, self.hidden), (self.inner, self.hidden)
        return [square] * 4 + [up] * 2 + [(self.hidden, self.inner)]

    @property
    def layer_bytes(self) -> int:
        """Of one layer's weights in float32."""
        return _FLOAT * sum(out * width for out, width in self.linears)

    @property
    def model_bytes(self) -> int:
        """Of all weights in float32."""
        return self.layers * self.layer_bytes + self.embedding_bytes

    @property
    def embedding_bytes(self) -> int:
        """Of the tied embedding in float32."""
        return _FLOAT * self.vocabulary * self.hidden


@dataclass(frozen=True, slots=True)
class Bound:
    """What the pass may hold, in bytes."""

    embeddings: int
    layers: int
    activations: int
    moments: int

    @classmethod
    def of(cls, shape: Shape) -> Bound:
        """Return the bound of a shape: each activation once, and its gradient."""
        tokens = shape.sequences * shape.length
        widths = sum(out + width for out, width in shape.linears) + 4 * shape.hidden
        scores = 2 * shape.sequences * shape.heads * shape.length**2
        logits = 4 * tokens * shape.vocabulary
        activations = 2 * _FLOAT * (tokens * widths + scores) + _FLOAT * logits
        moments = _FLOAT * sum(out**2 + width**2 for out, width in shape.linears)
        return cls(shape.embedding_bytes, 3 * shape.layer_bytes, activations, moments)

    @property
    def total(self) -> int:
        """All parts together."""
        return self.embeddings + self.layers + self.activations + self.moments


def write_model(folder: Path, shape: Shape) -> None:
    """Write a Llama with random bfloat16 weights, one file for each layer."""
    config = {
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "intermediate_size": shape.inner,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "rms_norm_eps": 1e-5,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "torch_dtype": "bfloat16",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    model = llama.Model(llama.ModelArgs.from_dict(config))  # type: ignore[no-untyped-call]
    files: dict[str, dict[str, mx.array]] = {}
    flat: Any = tree_flatten(model.parameters())  # type: ignore[no-untyped-call]
    for name, array in flat:
        part = name.split(".")[2] if ".layers." in name else "rest"
        files.setdefault(part, {})[name] = array.astype(mx.bfloat16)
    index: dict[str, str] = {}
    for part, arrays in files.items():
        mx.save_safetensors(str(folder / f"model-{part}.safetensors"), arrays)
        index |= dict.fromkeys(arrays, f"model-{part}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def measure_peak(folder: Path, shape: Shape) -> int:
    """Return by how many bytes the pass raises the peak of a fresh process."""
    command = [sys.executable, "-m", "benchmarks.statistics_memory", "--child", str(folder)]
    command += ["--tokens", str(shape.sequences), str(shape.length), str(shape.vocabulary)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def _child(folder: Path, sequences: int, length: int, vocabulary: int) -> None:
    mx.eval(mx.random.normal((256, 256)) @ mx.random.normal((256, 256)))
    before = _peak_bytes()
    tokens = np.random.default_rng(0).integers(0, vocabulary, (sequences, length), np.int32)
    with tempfile.TemporaryDirectory() as scratch:
        collect_statistics(folder, tokens, seed=0, scratch=Path(scratch))
    print(_peak_bytes() - before)


def _peak_bytes() -> int:
    """Return this process's own peak; Linux hands down the parent's through `getrusage`."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Print the peak beside the bound and the model's size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", type=Path)
    parser.add_argument("--tokens", type=int, nargs=3)
    parser.add_argument("--layers", type=int, default=24)
    options = parser.parse_args()
    if options.child is not None:
        _child(options.child, *options.tokens)
        return
    shape = Shape(layers=options.layers)
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), shape)
        peak = measure_peak(Path(folder), shape)
    print(
        json.dumps(
            {
                "peak_bytes": peak,
                "bound_bytes": Bound.of(shape).total,
                "model_bytes": shape.model_bytes,
            }
        )
    )


if __name__ == "__main__":
    main()
