"""Tiny checkpoints in 8-bit floats, as their makers publish them, and the same weights in bf16."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.workers.native.arrays import Array, from_float32, to_float32
from bitbudget.workers.streaming.decode import float8_table
from tests.workers.models.tiny import COMMON, CONFIGS
from tests.workers.streaming.conftest import write_safetensors

__all__ = ["FP8_CONFIG", "write_deepseek", "write_llama_shaped"]

Tensors = dict[str, tuple[Dtype, Array]]
BLOCK = 128
FP8_CONFIG = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [BLOCK, BLOCK]}


def _blocks(values: Array) -> Array:
    """Return the largest magnitude of every 128 x 128 block."""
    rows, columns = (-(-size // BLOCK) for size in values.shape)
    found = np.zeros((rows, columns), np.float32)
    for i in range(rows):
        for j in range(columns):
            block = values[i * BLOCK : (i + 1) * BLOCK, j * BLOCK : (j + 1) * BLOCK]
            found[i, j] = np.abs(block).max()
    return found


def _codes(values: Array) -> Array:
    """Return the nearest E4M3 codes."""
    table = float8_table(Dtype.F8_E4M3)
    known = np.flatnonzero(np.isfinite(table))
    order = known[np.argsort(table[known], kind="stable")]
    middles = (table[order][1:] + table[order][:-1]) / 2
    return order[np.searchsorted(middles, values)].astype(np.uint8)


def _block_scaled(name: str, values: Array) -> Tensors:
    """Return a matrix as DeepSeek publishes it: codes and float32 scales of 128 x 128 blocks."""
    scales = (_blocks(values) / 448).astype(np.float32)
    spread = np.kron(scales, np.ones((BLOCK, BLOCK), np.float32))[: len(values), : values.shape[1]]
    return {
        f"{name}.weight": (Dtype.F8_E4M3, _codes(values / spread)),
        f"{name}.weight_scale_inv": (Dtype.F32, scales),
    }


class _Maker:
    def __init__(self) -> None:
        self._rng = np.random.default_rng(3)
        self.tensors: Tensors = {}

    def _matrix(self, *shape: int) -> Array:
        values: Array = (0.05 * self._rng.standard_t(5, size=shape)).astype(np.float32)
        return values

    def fp8(self, name: str, *shape: int) -> None:
        self.tensors |= _block_scaled(name, self._matrix(*shape))

    def scaled(self, name: str, scaled: Callable[[str, Array], Tensors], *shape: int) -> None:
        self.tensors |= scaled(name, self._matrix(*shape))

    def plain(self, name: str, *shape: int, dtype: Dtype = Dtype.BF16) -> None:
        self.tensors[name] = (dtype, from_float32(self._matrix(*shape), dtype))

    def ones(self, name: str, width: int) -> None:
        self.tensors[name] = (Dtype.BF16, from_float32(np.ones(width, np.float32), Dtype.BF16))


def write_deepseek(folder: Path, *, shards: int = 1) -> Path:
    """Write a DeepSeek-V3 of two layers, the second with four experts; norms in bf16."""
    config = {**COMMON, **CONFIGS["deepseek_v3"], "model_type": "deepseek_v3"}
    config |= {"tie_word_embeddings": False, "quantization_config": FP8_CONFIG}
    hidden, wide, expert, heads = 64, 128, 64, 4
    maker = _Maker()
    maker.plain("model.embed_tokens.weight", 128, hidden)
    for layer in range(2):
        path = f"model.layers.{layer}"
        attention = f"{path}.self_attn"
        maker.fp8(f"{attention}.q_a_proj", 32, hidden)
        maker.ones(f"{attention}.q_a_layernorm.weight", 32)
        maker.fp8(f"{attention}.q_b_proj", heads * 64, 32)
        maker.fp8(f"{attention}.kv_a_proj_with_mqa", 64, hidden)
        maker.ones(f"{attention}.kv_a_layernorm.weight", 32)
        maker.fp8(f"{attention}.kv_b_proj", heads * 64, 32)
        maker.fp8(f"{attention}.o_proj", hidden, heads * 32)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            maker.ones(f"{path}.{norm}.weight", hidden)
        if layer:
            maker.plain(f"{path}.mlp.gate.weight", 4, hidden)
            maker.plain(f"{path}.mlp.gate.e_score_correction_bias", 4, dtype=Dtype.F32)
        owners = [f"experts.{i}" for i in range(4)] + ["shared_experts"] if layer else [""]
        for owner in owners:
            mlp = f"{path}.mlp.{owner}".rstrip(".")
            inner = expert if layer else wide
            maker.fp8(f"{mlp}.gate_proj", inner, hidden)
            maker.fp8(f"{mlp}.up_proj", inner, hidden)
            maker.fp8(f"{mlp}.down_proj", hidden, inner)
    maker.ones("model.norm.weight", hidden)
    maker.plain("lm_head.weight", 128, hidden)
    return _write(folder, config, maker.tensors, shards)


def _tensor_scaled(name: str, values: Array) -> Tensors:
    """Return a matrix as Mistral publishes it: codes, a scale of all and one of activations."""
    largest = np.array([np.abs(values).max()], np.float32)
    scale = from_float32(largest / np.float32(448), Dtype.BF16).reshape(())
    spread = to_float32(scale, Dtype.BF16)
    return {
        f"{name}.weight": (Dtype.F8_E4M3, _codes(values / spread)),
        f"{name}.weight_scale_inv": (Dtype.BF16, scale),
        f"{name}.activation_scale": (Dtype.BF16, scale),
    }


def write_llama_shaped(folder: Path, model_type: str, *, block_scaled: bool) -> Path:
    """Write a model of two layers named as Llama's: Ministral 3 or Qwen 3 in 8-bit floats."""
    config = {**COMMON, "model_type": model_type, "head_dim": 32, "tie_word_embeddings": False}
    config |= {"quantization_config": FP8_CONFIG}
    config["rope_parameters"] = {
        "type": "default",
        "rope_theta": 10000.0,
        "llama_4_scaling_beta": 0.1,
        "original_max_position_embeddings": 512,
    }
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"] * config["head_dim"]
    maker, scaled = _Maker(), _block_scaled if block_scaled else _tensor_scaled
    config["num_key_value_heads"] = config["num_attention_heads"]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        maker.plain(name, config["vocab_size"], hidden)
    maker.ones("model.norm.weight", hidden)
    shapes = {f"self_attn.{p}_proj": (heads, hidden) for p in "qkv"}
    shapes |= {f"mlp.{p}_proj": (inner, hidden) for p in ("gate", "up")}
    shapes |= {"self_attn.o_proj": (hidden, heads), "mlp.down_proj": (hidden, inner)}
    for layer in range(config["num_hidden_layers"]):
        path = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            maker.ones(f"{path}.{norm}.weight", hidden)
        for name, shape in shapes.items():
            maker.scaled(f"{path}.{name}", scaled, *shape)
    return _write(folder, config, maker.tensors, 1)


def _write(folder: Path, config: dict[str, Any], tensors: Tensors, shards: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    names = list(tensors)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
        return folder
    for shard in range(shards):
        part = {name: tensors[name] for name in names[shard::shards]}
        write_safetensors(folder / f"model-{shard + 1:05d}-of-{shards:05d}.safetensors", part)
    return folder
