"""Bodies of POST /v1/jobs that must be refused."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.hostile.tiny import DEEP, DEEP_OBJECT


def cases() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every case."""
    good = {"model": "org/model", "budget": "1GiB"}
    text = json.dumps(good).encode()
    yield from {
        "empty": b"",
        "no-json": b"budget",
        "list": b"[]",
        "null": b"null",
        "truncated": text[:-3],
        "trailing-garbage": text + b"]",
        "deep-list": DEEP,
        "deep-object": DEEP_OBJECT,
        "deep-inside": b'{"model": "org/model", "budget": ' + DEEP,
        "invalid-utf8": text.replace(b"org", b"\xff\xfe"),
        "number-of-many-digits": text.replace(b'"1GiB"', b"9" * 10_000),
        "nan": text.replace(b'"1GiB"', b"NaN"),
    }.items()
    for name, changes in _changes().items():
        yield name, json.dumps(good | changes).encode()


def _changes() -> dict[str, dict[str, object]]:
    return {
        "model-empty": {"model": ""},
        "model-null": {"model": None},
        "model-number": {"model": 1},
        "model-list": {"model": ["a/b"]},
        "model-long": {"model": "a/" + "b" * 2000},
        "budget-negative": {"budget": -1},
        "budget-words": {"budget": "much"},
        "budget-of-no-unit": {"budget": "5 apples"},
        "budget-infinite": {"budget": float("inf")},
        "budget-exponent": {"budget": "1e9"},
        "budget-with-a-second-line": {"budget": "1GiB\n2GiB"},
        "budget-object": {"budget": {"$gt": 0}},
        "budget-missing": {"budget": None},
        "context-zero": {"context": 0},
        "context-negative": {"context": -5},
        "context-fraction": {"context": 0.5},
        "context-text": {"context": "long"},
        "kv-bits-text": {"kv_bits": "all"},
        "speed-negative": {"min_tokens_per_second": -1},
        "speed-nan": {"min_tokens_per_second": float("nan")},
        "speed-infinite": {"min_tokens_per_second": float("inf")},
        "floor-negative": {"sqnr_floor_db": -1},
        "floor-nan": {"sqnr_floor_db": float("nan")},
        "floor-infinite": {"sqnr_floor_db": float("inf")},
        "formats-unknown": {"formats": ["affine1g1"]},
        "formats-text": {"formats": "affine4g64"},
        "pins-list": {"pins": ["*"]},
        "pins-unknown": {"pins": {"*": "magic"}},
        "floors-text": {"floors": {"*": "low"}},
        "time-zero": {"time_limit_seconds": 0},
        "time-a-year": {"time_limit_seconds": 3e7},
        "time-nan": {"time_limit_seconds": float("nan")},
        "seed-negative": {"seed": -1},
        "seed-large": {"seed": 2**32},
        "encoder-unknown": {"encoder": "magic"},
        "deliver-unknown": {"deliver": "everything"},
        "rotation-unknown": {"rotation": "twice"},
        "text-number": {"text": 5},
        "unknown-field": {"trust_remote_code": True},
    }
