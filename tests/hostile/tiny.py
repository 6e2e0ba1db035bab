"""A sound model of a few kilobytes, which each hostile case damages in one way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 48,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}

SHAPES: dict[str, list[int]] = {
    "model.embed_tokens.weight": [48, 32],
    "model.layers.0.input_layernorm.weight": [32],
    "model.layers.0.mlp.down_proj.weight": [32, 64],
    "model.layers.0.mlp.gate_proj.weight": [64, 32],
    "model.layers.0.mlp.up_proj.weight": [64, 32],
    "model.layers.0.post_attention_layernorm.weight": [32],
    "model.layers.0.self_attn.k_proj.weight": [16, 32],
    "model.layers.0.self_attn.o_proj.weight": [32, 32],
    "model.layers.0.self_attn.q_proj.weight": [32, 32],
    "model.layers.0.self_attn.v_proj.weight": [16, 32],
    "model.norm.weight": [32],
}
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"

_ITEM_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I32": 4, "U32": 4, "BOOL": 1, "U8": 1}

Header = dict[str, Any]
Content = bytes | Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """A named folder of files; content is bytes, or a function that makes the path."""

    name: str
    files: Mapping[str, Content] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Make the folder."""
        folder.mkdir()
        for name, content in self.files.items():
            path = folder / name
            if callable(content):
                content(path)
            else:
                path.write_bytes(content)
        return folder

    def __str__(self) -> str:
        return self.name


def header(
    shapes: Mapping[str, list[int]] = SHAPES, dtypes: Mapping[str, str] | None = None
) -> tuple[Header, int]:
    """A header whose tensors lie one after another, and the bytes of their data."""
    position, entries = 0, {}
    for name, shape in shapes.items():
        dtype = (dtypes or {}).get(name, "BF16")
        size = _ITEM_BYTES[dtype]
        for length in shape:
            size *= length
        entries[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [position, position + size],
        }
        position += size
    return entries, position


def pack(head: Header | bytes, data: bytes, length: int | None = None) -> bytes:
    """The bytes of a safetensors file, with any `length` claimed for the header."""
    raw = head if isinstance(head, bytes) else json.dumps(head).encode()
    claimed = len(raw) if length is None else length
    return claimed.to_bytes(8, "little") + raw + data


def weights(
    shapes: Mapping[str, list[int]] = SHAPES, dtypes: Mapping[str, str] | None = None
) -> bytes:
    """A sound weight file."""
    head, nbytes = header(shapes, dtypes)
    return pack(head, bytes(nbytes))


def config(**changes: Any) -> bytes:
    """The configuration with changes; None removes nothing, it is written as null."""
    return json.dumps(CONFIG | changes).encode()


def model(**files: Content) -> dict[str, Content]:
    """A sound model's files, with some replaced (`config__json=...`)."""
    replaced = {name.replace("__", "."): content for name, content in files.items()}
    return {"config.json": config(), "model.safetensors": weights(), **replaced}


DEEP = b"[" * 200_000
DEEP_OBJECT = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
