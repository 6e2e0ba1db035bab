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
        "budget-of-323-digits": {"budget": 10**322},
        "budget-text-of-60-digits": {"budget": "9" * 60 + "TiB"},
        "context-of-5000-digits": {"context": 10**4000},
        "context-huge": {"context": 2**40},
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
        "text-nul": {"text": "a\x00b"},
        "text-surrogate": {"text": "\ud800"},
        "name-surrogate": {"name": "a\udfffb"},
        "name-nul": {"name": "a\x00"},
        "model-surrogate": {"model": "org/\ud800"},
        "key-surrogate": {"\ud800": 1},
        "pin-surrogate": {"pins": {"\ud800": "keep"}},
        "pin-long": {"pins": {"[" * 10_000: "keep"}},
        "pins-many": {"pins": {str(n): "keep" for n in range(2000)}},
        "floors-many": {"floors": {str(n): 2 for n in range(2000)}},
        "floors-huge": {"floors": {"*": 10**300}},
        "formats-many": {"formats": ["keep"] * 60_000},
        "low-bit-huge": {"max_low_bit_per_block": 10**300},
        "speed-huge": {"min_tokens_per_second": 1e300},
        "unknown-field": {"trust_remote_code": True},
    }


def path_cases() -> Iterator[tuple[str, bytes]]:
    """Yield sound requests whose model is no folder that a server may read."""
    for name, model in {"nobody": "~nobody-of-this-name/x", "long": "/" + "x" * 1000}.items():
        yield f"model-path-{name}", json.dumps({"model": model, "budget": 1}).encode()
