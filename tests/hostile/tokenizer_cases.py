"""Tokenizers that are damaged, or that want to run code."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.hostile.tiny import DEEP, Case, Content

Change = Callable[[dict[str, Any]], Any]


def cases(sample: Path) -> Iterator[Case]:
    """Every case, made from the tokenizer in the folder `sample`."""
    text = (sample / "tokenizer.json").read_bytes()
    config = (sample / "tokenizer_config.json").read_bytes()
    rest = (sample / "config.json").read_bytes()
    sound: dict[str, Content] = {
        "tokenizer.json": text,
        "tokenizer_config.json": config,
        "config.json": rest,
    }
    documents = {
        "empty": b"",
        "no-json": b"tokenizer",
        "list": b"[]",
        "null": b"null",
        "truncated": text[: len(text) // 2],
        "deep": DEEP,
        "invalid-utf8": b"\xff\xfe" + text[2:],
        "pickle": pickle.dumps({"a": 1}),
        "zeros": bytes(1000),
        "empty-object": b"{}",
    }
    for name, content in documents.items():
        yield Case(f"tokenizer-{name}", sound | {"tokenizer.json": content})
    for name, change in _changes().items():
        document = json.loads(text)
        change(document)
        changed = json.dumps(document).encode()
        yield Case(f"tokenizer-{name}", sound | {"tokenizer.json": changed})
    for name, content in {"no-json": b"{", "list": b"[]", "deep": DEEP, "pickle": b"\x80"}.items():
        yield Case(f"tokenizer-config-{name}", sound | {"tokenizer_config.json": content})
    yield Case("tokenizer-missing", {"config.json": rest})


def _changes() -> dict[str, Change]:
    def model(**changes: object) -> Change:
        return lambda document: document["model"].update(changes)

    return {
        "model-missing": lambda document: document.pop("model"),
        "model-null": lambda document: document.update(model=None),
        "model-of-no-type": model(type="Evil"),
        "vocabulary-list": model(vocab=["a", "b"]),
        "vocabulary-of-texts": model(vocab={"a": "b"}),
        "vocabulary-negative": model(vocab={"a": -1}),
        "vocabulary-beyond-32-bits": model(vocab={"a": 2**40}),
        "merges-of-numbers": model(merges=[1, 2]),
        "merges-of-unknown-tokens": model(merges=["nope nada"]),
        "added-tokens-object": lambda document: document.update(added_tokens={"a": 1}),
        "decoder-of-no-type": lambda document: document.update(decoder={"type": "Evil"}),
        "version-unknown": lambda document: document.update(version="99"),
    }


def with_code(sample: Path, marker: Path) -> Case:
    """A tokenizer whose own code, if it ran, would leave `marker` behind."""
    config = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    return Case(
        "tokenizer-with-code",
        {
            "tokenizer.json": (sample / "tokenizer.json").read_bytes(),
            "tokenizer_config.json": json.dumps(config).encode(),
            "config.json": (sample / "config.json").read_bytes(),
            "evil.py": f"open({str(marker)!r}, 'w').close()".encode(),
        },
    )
