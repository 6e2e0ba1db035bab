"""Synthetic checkpoints with the shapes of real models, made on the fly and never kept.

Weights are heavy-tailed (Student t with 5 degrees of freedom) with rows of different scale and some
outlier channels, as trained ones are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.dtypes import Dtype
from bitbudget.workers.native.arrays import from_float32

__all__ = ["SHAPES", "Shape", "write_checkpoint"]

_POOL_WEIGHTS: Final = 1 << 24
_OUTLIER_STEP: Final = 193
_OUTLIER_EXPONENTS: Final = 3 << 7
"""Added to the bits of a bf16 number this multiplies it by 8."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions of a Qwen3 model; `experts` is 0 for a dense one."""

    hidden: int
    feed_forward: int
    layers: int
    heads: int
    key_value_heads: int
    head_width: int
    vocabulary: int
    tied: bool
    experts: int = 0

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the names and shapes that Hugging Face gives the weights."""
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            yield from self._layer(f"model.layers.{layer}")
        yield "model.norm.weight", (self.hidden,)
        if not self.tied:
            yield "lm_head.weight", (self.vocabulary, self.hidden)

    def _layer(self, path: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        queries, keys = self.heads * self.head_width, self.key_value_heads * self.head_width
        yield f"{path}.self_attn.q_proj.weight", (queries, self.hidden)
        yield f"{path}.self_attn.k_proj.weight", (keys, self.hidden)
        yield f"{path}.self_attn.v_proj.weight", (keys, self.hidden)
        yield f"{path}.self_attn.o_proj.weight", (self.hidden, queries)
        for norm in ("self_attn.q_norm", "self_attn.k_norm"):
            yield f"{path}.{norm}.weight", (self.head_width,)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{path}.{norm}.weight", (self.hidden,)
        if self.experts:
            yield f"{path}.mlp.gate.weight", (self.experts, self.hidden)
        owners = [f".experts.{index}" for index in range(self.experts)] or [""]
        for owner in owners:
            for name in ("gate_proj", "up_proj"):
                yield f"{path}.mlp{owner}.{name}.weight", (self.feed_forward, self.hidden)
            yield f"{path}.mlp{owner}.down_proj.weight", (self.hidden, self.feed_forward)

    def config(self) -> dict[str, Any]:
        """Return config.json of a dense model."""
        return {
            "model_type": "qwen3",
            "architectures": ["Qwen3ForCausalLM"],
            "hidden_size": self.hidden,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_width,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "max_position_embeddings": 40960,
            "torch_dtype": "bfloat16",
        }


SHAPES: Final = {
    "qwen3-0.6b": Shape(1024, 3072, 28, 16, 8, 128, 151936, tied=True),
    "qwen3-8b": Shape(4096, 12288, 36, 32, 8, 128, 151936, tied=False),
    "qwen3-30b-a3b": Shape(2048, 768, 48, 32, 4, 128, 151936, tied=False, experts=128),
}


def write_checkpoint(folder: Path, shape: Shape, limit_bytes: int | None = None) -> Path:
    """Write one safetensors file of at most `limit_bytes`, and config.json; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen: list[tuple[str, tuple[int, ...]]] = []
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, dimensions in shape.tensors():
        nbytes = 2 * int(np.prod(dimensions))
        if limit_bytes is not None and position + nbytes > limit_bytes:
            continue
        header[name] = {
            "dtype": "BF16",
            "shape": list(dimensions),
            "data_offsets": [position, position + nbytes],
        }
        position += nbytes
        chosen.append((name, dimensions))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pool, rng = _pool(), np.random.default_rng(1)
    path = folder / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, dimensions in chosen:
            file.write(_weights(pool, dimensions, rng).data)
    (folder / "config.json").write_text(json.dumps(shape.config()))
    return path


def _pool() -> npt.NDArray[np.uint16]:
    rng = np.random.default_rng(0)
    rows = np.exp(0.3 * rng.standard_normal((_POOL_WEIGHTS // 1024, 1)))
    values = 0.02 * rows * rng.standard_t(5, size=(_POOL_WEIGHTS // 1024, 1024))
    pool: npt.NDArray[np.uint16] = from_float32(values.astype(np.float32), Dtype.BF16)
    return pool.reshape(-1)


def _weights(
    pool: npt.NDArray[np.uint16], dimensions: tuple[int, ...], rng: np.random.Generator
) -> npt.NDArray[np.uint16]:
    count = int(np.prod(dimensions))
    start = int(rng.integers(pool.size))
    weights = np.resize(np.roll(pool, -start), count).reshape(dimensions)
    if len(dimensions) > 1:
        weights[:, start % _OUTLIER_STEP :: _OUTLIER_STEP] += np.uint16(_OUTLIER_EXPONENTS)
    return weights
