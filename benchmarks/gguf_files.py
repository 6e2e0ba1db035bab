"""GGUF files of a checkpoint for llama.cpp's quantizer, and the weights that it makes of them.

Needs the package `gguf`. Rows are not permuted as llama.cpp's RoPE wants them and no tokenizer is
written: its quantizer goes along rows one by one, and nothing here is run by llama.cpp.
"""

from __future__ import annotations

import importlib
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from bitbudget.app.cli.gguf_names import gguf_names
from bitbudget.app.core.errors import UnsupportedModelError
from bitbudget.app.core.inventory import Inventory
from bitbudget.workers.models import Checkpoint, build_inventory
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.taps import Call, Tape, tapped

__all__ = ["dequantized", "quantize", "write_importance", "write_model"]

_NUMBERS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
_REALS = {"attention.layer_norm_rms_epsilon": "rms_norm_eps", "rope.freq_base": "rope_theta"}


def tensor_names(inventory: Inventory) -> dict[str, str]:
    """Return what every parameter is called in a GGUF, modules and what is never quantized.

    A dense layer of a mixture of experts, which llama.cpp's qwen3moe has not, is called as in a
    llama: its quantizer takes it so.
    """
    architecture = inventory.architecture
    first = gguf_names(architecture)
    second = gguf_names(replace(architecture, model_type="llama"))

    def name(path: str) -> str:
        try:
            return first(path)
        except UnsupportedModelError:
            return second(path)

    paths = [module.path for module in inventory.modules]
    paths += [array.name.removesuffix(".weight") for array in inventory.passthrough]
    return {path: name(path) for path in paths}


def write_model(checkpoint: Checkpoint, file: Path) -> None:
    """Write every parameter in float32 under llama.cpp's names, with the numbers it asks for."""
    gguf: Any = importlib.import_module("gguf")
    inventory, config = build_inventory(checkpoint), checkpoint.config
    kind = config["model_type"].replace("_", "")
    writer = gguf.GGUFWriter(str(file), kind)
    for key, ours in _NUMBERS.items():
        if ours in config:
            writer.add_uint32(f"{kind}.{key}", config[ours])
    for key, ours in _REALS.items():
        writer.add_float32(f"{kind}.{key}", config[ours])
    modules = dict(load_float32(checkpoint.folder).named_modules())
    for path, name in tensor_names(inventory).items():
        writer.add_tensor(name, np.array(modules[path].weight.astype(mx.float32)))
    _close(writer)


def write_importance(checkpoint: Checkpoint, tokens: np.ndarray, file: Path) -> None:
    """Write E[x^2] of each input column over `tokens`, of experts by those that reach each.

    As llama-imatrix does it, with nothing for the embedding or a head that is tied to it.
    """
    gguf: Any = importlib.import_module("gguf")
    names = tensor_names(build_inventory(checkpoint))
    writer = gguf.GGUFWriter(str(file), "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["what the model writes"])
    writer.add_uint32("imatrix.chunk_count", len(tokens))
    writer.add_uint32("imatrix.chunk_size", tokens.shape[1])
    for path, (sums, counts) in _squares(checkpoint, tokens).items():
        writer.add_tensor(f"{names[path]}.in_sum2", sums.astype(np.float32))
        writer.add_tensor(f"{names[path]}.counts", counts.astype(np.float32)[:, None])
    _close(writer)


def _squares(
    checkpoint: Checkpoint, tokens: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return by module the sums of squared inputs (experts or 1, in), and of how many tokens."""
    model = load_float32(checkpoint.folder)
    heights = {m.path: m.shape[0] for m in build_inventory(checkpoint).modules}
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    tape = Tape()
    with tapped(model, "", tape):
        for sequence in tokens:
            tape.rewind(())
            mx.eval(model(mx.array(sequence)[None]))
            for call in tape.calls:
                if call.is_lookup or "embed" in call.path:
                    continue
                sums, counts = _squares_of(call, heights[call.path])
                before = found.get(call.path, (0.0, 0.0))
                found[call.path] = (before[0] + sums, before[1] + counts)
    return found


def _squares_of(call: Call, experts: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.square(np.array(call.inputs.astype(mx.float32), np.float64))
    if call.indices is None:
        rows = x.reshape(-1, x.shape[-1])
        return rows.sum(0)[None], np.array([len(rows)], np.float64)
    indices = np.array(call.indices).reshape(-1)
    rows = np.broadcast_to(x, (*call.indices.shape, 1, x.shape[-1])).reshape(len(indices), -1)
    sums = np.zeros((experts, rows.shape[-1]))
    np.add.at(sums, indices, rows)
    return sums, np.bincount(indices, minlength=experts).astype(np.float64)


def _close(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(program: Path, source: Path, file: Path, kind: str, importance: Path | None) -> str:
    """Let llama.cpp quantize a GGUF; returns what it said. CalledProcessError when it fails."""
    given = [] if importance is None else ["--imatrix", str(importance)]
    command = [str(program), *given, str(source), str(file), kind, "1"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout + done.stderr


def dequantized(inventory: Inventory, file: Path) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Return float32 weights by module, and how many of them have each of llama.cpp's types."""
    gguf: Any = importlib.import_module("gguf")
    quants: Any = importlib.import_module("gguf.quants")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(str(file)).tensors}
    names = tensor_names(inventory)
    arrays, kinds = {}, Counter[str]()
    for module in inventory.modules:
        tensor = tensors[names[module.path]]
        arrays[module.path] = quants.dequantize(tensor.data, tensor.tensor_type)
        kinds[tensor.tensor_type.name] += 1
    return arrays, dict(kinds)
