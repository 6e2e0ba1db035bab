"""Model folders whose files are missing, doubled, or not what their names say."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

from tests.hostile.tiny import DEEP, SHAPES, Case, Content, config, model, pack, weights

_INDEX = "model.safetensors.index.json"
_FIRST, _SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def cases() -> Iterator[Case]:
    """Every case."""
    pickled = pickle.dumps({"a": 1})
    folders: dict[str, dict[str, Content]] = {
        "empty": {},
        "config-only": {"config.json": config()},
        "weights-only": {"model.safetensors": weights()},
        "pickles-only": {"config.json": config(), "pytorch_model.bin": pickled},
        "gguf-only": {"config.json": config(), "model.gguf": b"GGUF" + bytes(64)},
        "weights-under-another-name": {"config.json": config(), "weights.safetensors": weights()},
        "config-a-folder": {"config.json": Path.mkdir, "model.safetensors": weights()},
        "weights-a-folder": {"config.json": config(), "model.safetensors": Path.mkdir},
        "config-a-pipe": {"config.json": os.mkfifo, "model.safetensors": weights()},
        "weights-a-pipe": {"config.json": config(), "model.safetensors": os.mkfifo},
        "config-a-loop": {"config.json": _loop, "model.safetensors": weights()},
        "weights-a-loop": {"config.json": config(), "model.safetensors": _loop},
        "weights-link-to-nothing": {"config.json": config(), "model.safetensors": _nowhere},
        "weights-link-to-endless-zeros": {"config.json": config(), "model.safetensors": _zeros},
        "config-link-to-endless-zeros": {"config.json": _zeros, "model.safetensors": weights()},
        "weights-link-to-text": {"config.json": config(), "model.safetensors": _passwd},
        "config-link-to-text": {"config.json": _passwd, "model.safetensors": weights()},
    }
    for name, files in folders.items():
        yield Case(f"folder-{name}", files)
    yield from _sharded()
    many = {f"model-{number:05d}.safetensors": pack(b"{}", b"") for number in range(5000)}
    yield Case("folder-of-5000-weight-files", {"config.json": config(), **many})


def stale_indexes() -> Iterator[Case]:
    """Whole models beside an index that is broken or of other files: nobody needs it."""
    both = _both_shards()
    yield Case("index-a-pipe", model(model__safetensors__index__json=os.mkfifo))
    for name, content in _indexes(sorted(SHAPES)).items():
        yield Case(f"index-{name}", both | {_INDEX: content})


def _both_shards() -> dict[str, Content]:
    names = sorted(SHAPES)
    first = weights({name: SHAPES[name] for name in names[:5]})
    second = weights({name: SHAPES[name] for name in names[5:]})
    return {"config.json": config(), _FIRST: first, _SECOND: second}


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _nowhere(path: Path) -> None:
    path.symlink_to("missing/file")


def _zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _passwd(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def _sharded() -> Iterator[Case]:
    both = _both_shards()
    first, second = both[_FIRST], both[_SECOND]
    yield Case("shards-last-missing", {"config.json": config(), _FIRST: first})
    yield Case("shards-first-missing", {"config.json": config(), _SECOND: second})
    yield Case("shards-one-twice", both | {_SECOND: first})
    yield Case("shards-a-whole-copy-beside", both | {"model.safetensors": weights()})


def _indexes(names: list[str]) -> dict[str, bytes]:
    def index(weight_map: object) -> bytes:
        return json.dumps({"weight_map": weight_map}).encode()

    return {
        "empty": b"",
        "no-json": b"{",
        "list": b"[]",
        "deep": DEEP,
        "without-map": b"{}",
        "of-40-megabytes": b" " * 40_000_000,
        "of-many-lists": b'{"weight_map":[' + b"[]," * 300_000 + b"1]}",
        "map-list": index(names),
        "map-null": index(None),
        "map-of-numbers": index(dict.fromkeys(names, 1)),
        "map-to-a-missing-shard": index(dict.fromkeys(names, "model-00003.safetensors")),
        "map-outside": index(dict.fromkeys(names, "../model.safetensors")),
        "map-absolute": index(dict.fromkeys(names, "/etc/passwd")),
        "map-to-a-pickle": index(dict.fromkeys(names, "pytorch_model.bin")),
    }
