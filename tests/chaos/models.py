"""Small models with random weights: one for each job, so that no job is free."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def make_model(folder: Path, seed: int, tokenizer: Path) -> Path:
    """Write a model of 0.7 MB whose weights depend on `seed`; `tokenizer` gives the tokenizer."""
    folder.mkdir(parents=True)
    vocabulary = json.loads((tokenizer / "config.json").read_bytes())["vocab_size"]
    config = CONFIG | {"vocab_size": vocabulary}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, folder / name)
    generator = np.random.default_rng(seed)
    header: dict[str, Any] = {}
    data = b""
    for name, shape in _shapes(config):
        values = np.ones(shape) if len(shape) == 1 else generator.normal(0, 0.05, shape)
        raw = values.astype(np.float16).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


def _shapes(config: dict[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("model.embed_tokens.weight", (config["vocab_size"], width)),
        ("model.norm.weight", (width,)),
    ]
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        shapes += [
            (f"{layer}.input_layernorm.weight", (width,)),
            (f"{layer}.post_attention_layernorm.weight", (width,)),
            (f"{layer}.self_attn.q_proj.weight", (width, width)),
            (f"{layer}.self_attn.k_proj.weight", (keys, width)),
            (f"{layer}.self_attn.v_proj.weight", (keys, width)),
            (f"{layer}.self_attn.o_proj.weight", (width, width)),
            (f"{layer}.mlp.gate_proj.weight", (inner, width)),
            (f"{layer}.mlp.up_proj.weight", (inner, width)),
            (f"{layer}.mlp.down_proj.weight", (width, inner)),
        ]
    return shapes
