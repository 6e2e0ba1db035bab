"""Configurations that are no configuration, or describe a model that cannot be."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.hostile.tiny import CONFIG, DEEP, DEEP_OBJECT, Case, Content, config, model


def cases() -> Iterator[Case]:
    """Every case."""
    for name, content in _documents().items():
        yield Case(f"config-{name}", model(config__json=content))
    for key in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size"):
        rest = {name: value for name, value in CONFIG.items() if name != key}
        yield Case(f"config-without-{key}", model(config__json=json.dumps(rest).encode()))
    for name, changes in _values().items():
        yield Case(f"config-{name}", model(config__json=config(**changes)))


def _documents() -> dict[str, Content]:
    text = config()
    return {
        "empty": b"",
        "no-json": b"model_type: llama",
        "list": b"[]",
        "text": b'"llama"',
        "null": b"null",
        "truncated": text[:40],
        "trailing-garbage": text + b"}",
        "deep-list": DEEP,
        "deep-object": DEEP_OBJECT,
        "invalid-utf8": text.replace(b"llama", b"ll\xffma"),
        "number-of-many-digits": text.replace(b"64", b"6" * 10_000, 1),
        "binary": os.urandom(1000),
        "pickle": b"\x80\x04\x95",
        "larger-than-any": _sparse,
    }


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**33)


def _values() -> dict[str, dict[str, Any]]:
    numbers: dict[str, Any] = {
        "null": None,
        "text": "many",
        "list": [32],
        "object": {},
        "zero": 0,
        "negative": -32,
        "nan": float("nan"),
        "infinite": float("inf"),
        "beyond-64-bits": 2**70,
        "of-another-model": 40,
    }
    cases: dict[str, dict[str, Any]] = {
        f"hidden_size-{name}": {"hidden_size": value} for name, value in numbers.items()
    }
    cases |= {
        f"{key}-{name}": {key: numbers[name]}
        for key in ("num_hidden_layers", "vocab_size", "intermediate_size", "num_attention_heads")
        for name in ("null", "text", "negative", "beyond-64-bits")
    }
    return cases | {
        "layers-a-billion": {"num_hidden_layers": 10**9},
        "layers-a-hundred-thousand": {"num_hidden_layers": 10**5},
        "experts-a-billion": {"model_type": "ernie4_5_moe", "moe_num_experts": 10**9},
        "pattern-of-a-million-layers": {"hybrid_override_pattern": "M-" * 500_000},
        "vocabulary-petabytes": {"vocab_size": 10**15},
        "heads-zero": {"num_attention_heads": 0},
        "heads-not-dividing": {"num_attention_heads": 5},
        "kv-heads-zero": {"num_key_value_heads": 0},
        "kv-heads-of-another-model": {"num_key_value_heads": 2},
        "head-width-of-another-model": {"head_dim": 24},
        "model_type-null": {"model_type": None},
        "model_type-number": {"model_type": 1},
        "model_type-list": {"model_type": ["llama"]},
        "model_type-path": {"model_type": "../../../tmp/evil"},
        "model_type-dotted": {"model_type": "llama.os"},
        "model_type-a-module-that-is-no-model": {"model_type": "cache"},
        "model_type-python": {"model_type": "__init__"},
        "model_type-empty": {"model_type": ""},
        "model_type-long": {"model_type": "a" * 10_000},
        "model_type-unknown": {"model_type": "transformer9000"},
        "model_type-unicode": {"model_type": "\uff4clama"},
        "model_type-newline": {"model_type": "llama\n"},
        "model_type-nul": {"model_type": "llama\0"},
        "code-of-its-own": {"model_file": "evil.py"},
        "code-outside": {"model_file": "../../evil.py"},
        "rope-text": {"rope_scaling": "yes"},
        "rope-of-no-kind": {"rope_scaling": {"rope_type": "evil", "factor": 2}},
    }
