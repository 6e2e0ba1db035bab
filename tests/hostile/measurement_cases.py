"""Measurements that a worker must not be able to store."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.hostile.tiny import DEEP, DEEP_OBJECT

PATH = "model.embed_tokens"

MEASUREMENT: dict[str, Any] = {
    "model": {"name": "org/model", "revision": "main", "digest": "0" * 64},
    "inventory": {
        "architecture": {
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 64,
            "vocabulary_size": 128,
            "layers": 1,
            "attention_heads": 2,
            "max_context": 64,
        },
        "modules": [
            {
                "path": PATH,
                "kind": "embedding",
                "shape": [128, 64],
                "dtype": "BF16",
                "decision_group": PATH,
            }
        ],
        "passthrough": [{"name": "model.norm.weight", "dtype": "BF16", "shape": [64]}],
    },
    "encoder": "careful",
    "sensitivity": "fisher",
    "curves": [
        {
            "path": PATH,
            "alpha_nats": 1.0,
            "points": [
                {"format": "affine4g64", "t2": 0.01, "kl_nats": 0.01},
                {"format": "keep", "t2": 0.0, "kl_nats": 0.0},
            ],
        }
    ],
}


def cases() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every case."""
    text = json.dumps(MEASUREMENT).encode()
    yield from {
        "empty": b"",
        "no-json": b"measurement",
        "null": b"null",
        "list": b"[]",
        "truncated": text[:-5],
        "deep-list": DEEP,
        "deep-object": DEEP_OBJECT,
        "invalid-utf8": text.replace(b"llama", b"ll\xffma"),
        "pickle": b"\x80\x04\x95",
    }.items()
    for name, change in _changes().items():
        document = copy.deepcopy(MEASUREMENT)
        change(document)
        yield name, json.dumps(document).encode()


def _changes() -> dict[str, Callable[[dict[str, Any]], Any]]:
    def point(**changes: object) -> Callable[[dict[str, Any]], Any]:
        return lambda document: document["curves"][0]["points"][0].update(changes)

    def module(**changes: object) -> Callable[[dict[str, Any]], Any]:
        return lambda document: document["inventory"]["modules"][0].update(changes)

    return {
        "no-curves": lambda document: document.update(curves=[]),
        "curve-of-no-module": lambda document: document["curves"][0].update(path="evil"),
        "no-modules": lambda document: document["inventory"].update(modules=[]),
        "t2-nan": point(t2=float("nan")),
        "t2-infinite": point(t2=float("inf")),
        "t2-text": point(t2="low"),
        "kl-nan": point(kl_nats=float("nan")),
        "format-unknown": point(format="affine9g64"),
        "format-number": point(format=4),
        "alpha-nan": lambda document: document["curves"][0].update(alpha_nats=float("nan")),
        "shape-text": module(shape="128x64"),
        "shape-of-fractions": module(shape=[128.5, 64]),
        "dtype-unknown": module(dtype="Q4"),
        "kind-unknown": module(kind="magic"),
        "path-number": module(path=5),
    }
