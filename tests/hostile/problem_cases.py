"""Problems for `bitbudget solve` that are malformed, in JSON and in NumPy arrays."""

from __future__ import annotations

import copy
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.hostile.tiny import DEEP, DEEP_OBJECT

PROBLEM: dict[str, Any] = {
    "budget": 10,
    "groups": [
        {
            "name": "a",
            "options": [
                {"name": "x", "bytes": 3, "cost": 2.0},
                {"name": "y", "bytes": 6, "cost": 0.5},
            ],
        },
        {"name": "b", "options": [{"name": "x", "bytes": 2, "cost": 1}]},
    ],
    "rows": [{"name": "r", "limit": 9, "weights": [[1, 2], [3]]}],
}

ARRAYS: dict[str, Any] = {
    "budget": np.array(10),
    "bytes": np.array([3, 6, 2]),
    "costs": np.array([2.0, 0.5, 1.0]),
    "offsets": np.array([0, 2, 3]),
}


def cases() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every case."""
    text = json.dumps(PROBLEM).encode()
    yield from {
        "empty": b"",
        "no-json": b"budget: 10",
        "list": b"[]",
        "null": b"null",
        "empty-object": b"{}",
        "truncated": text[:-10],
        "trailing-garbage": text + b"]",
        "deep-list": DEEP,
        "deep-object": DEEP_OBJECT,
        "deep-inside": text.replace(b'"budget": 10', b'"budget": ' + DEEP),
        "invalid-utf8": text.replace(b'"a"', b'"\xff"'),
        "number-of-many-digits": text.replace(b"10", b"9" * 10_000),
        "pickle": pickle.dumps(PROBLEM),
    }.items()
    for name, change in _changes().items():
        document = copy.deepcopy(PROBLEM)
        change(document)
        yield name, json.dumps(document).encode()
    for name, arrays in _arrays().items():
        yield f"arrays-{name}", pack(arrays)
    yield from _archives().items()


def pack(arrays: dict[str, Any]) -> bytes:
    """The bytes of an .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _changes() -> dict[str, Callable[[dict[str, Any]], Any]]:
    def top(**changes: object) -> Callable[[dict[str, Any]], Any]:
        return lambda document: document.update(changes)

    def option(**changes: object) -> Callable[[dict[str, Any]], Any]:
        return lambda document: document["groups"][0]["options"][0].update(changes)

    def row(**changes: object) -> Callable[[dict[str, Any]], Any]:
        return lambda document: document["rows"][0].update(changes)

    return {
        "budget-missing": lambda document: document.pop("budget"),
        "budget-negative": top(budget=-1),
        "budget-fraction": top(budget=1.5),
        "budget-text": top(budget="10"),
        "budget-nan": top(budget=float("nan")),
        "budget-boolean": top(budget=True),
        "budget-list": top(budget=[10]),
        "budget-too-small": top(budget=4),
        "groups-missing": lambda document: document.pop("groups"),
        "groups-empty": top(groups=[]),
        "groups-object": top(groups={"a": 1}),
        "groups-of-numbers": top(groups=[1, 2]),
        "groups-of-nulls": top(groups=[None]),
        "group-without-options": lambda document: document["groups"][0].pop("options"),
        "group-of-no-option": lambda document: document["groups"][0].update(options=[]),
        "group-of-an-object": lambda document: document["groups"][0].update(options={}),
        "group-name-number": lambda document: document["groups"][0].update(name=1),
        "group-name-twice": lambda document: document["groups"][1].update(name="a"),
        "option-null": lambda document: document["groups"][0].update(options=[None]),
        "option-name-list": option(name=["x"]),
        "option-name-twice": option(name="y"),
        "option-bytes-missing": lambda document: document["groups"][0]["options"][0].pop("bytes"),
        "option-cost-missing": lambda document: document["groups"][0]["options"][0].pop("cost"),
        "option-bytes-negative": option(bytes=-1),
        "option-bytes-fraction": option(bytes=3.5),
        "option-bytes-text": option(bytes="3"),
        "option-bytes-boolean": option(bytes=True),
        "option-bytes-huge": option(bytes=2**70),
        "option-bytes-of-many-digits": option(bytes=10**4000),
        "option-cost-nan": option(cost=float("nan")),
        "option-cost-infinite": option(cost=float("inf")),
        "option-cost-negative": option(cost=-0.5),
        "option-cost-text": option(cost="cheap"),
        "option-cost-of-many-digits": option(cost=10**4000),
        "option-cost-long-text": option(cost="cheap" * 10_000),
        "bytes-overflowing-together": lambda document: [
            entry.update(bytes=2**59) for group in document["groups"] for entry in group["options"]
        ],
        "rows-object": top(rows={"r": 1}),
        "rows-of-numbers": top(rows=[1]),
        "row-without-limit": lambda document: document["rows"][0].pop("limit"),
        "row-limit-nan": row(limit=float("nan")),
        "row-limit-negative": row(limit=-1),
        "row-without-weights": lambda document: document["rows"][0].pop("weights"),
        "row-weights-of-one-group": row(weights=[[1, 2]]),
        "row-weights-too-few": row(weights=[[1], [3]]),
        "row-weights-flat": row(weights=[1, 2]),
        "row-weight-negative": row(weights=[[-1, 2], [3]]),
        "row-weight-text": row(weights=[["1", 2], [3]]),
        "row-weight-huge": row(weights=[[2**70, 2], [3]]),
        "row-name-twice": lambda document: document["rows"].append(document["rows"][0]),
        "row-limit-too-small": row(limit=3),
    }


def _arrays() -> dict[str, dict[str, Any]]:
    def without(name: str) -> dict[str, Any]:
        return {key: array for key, array in ARRAYS.items() if key != name}

    return {
        "none": {},
        **{f"without-{name}": without(name) for name in ARRAYS},
        "objects": ARRAYS | {"bytes": np.array([{}, {}, {}], dtype=object)},
        "bytes-fractions": ARRAYS | {"bytes": np.array([3.0, 6.0, 2.0])},
        "bytes-negative": ARRAYS | {"bytes": np.array([-3, 6, 2])},
        "bytes-unsigned-huge": ARRAYS | {"bytes": np.array([2**63, 6, 2], np.uint64)},
        "bytes-empty": ARRAYS | {"bytes": np.array([], np.int64)},
        "bytes-of-three-axes": ARRAYS | {"bytes": np.ones((1, 1, 3), np.int64)},
        "bytes-a-number": ARRAYS | {"bytes": np.array(3)},
        "bytes-of-empty-groups": without("offsets")
        | {"bytes": np.ones((3, 0), np.int64), "costs": np.ones((3, 0))},
        "costs-nan": ARRAYS | {"costs": np.array([np.nan, 1, 1])},
        "costs-infinite": ARRAYS | {"costs": np.array([np.inf, 1, 1])},
        "costs-negative": ARRAYS | {"costs": np.array([-1.0, 1, 1])},
        "costs-complex": ARRAYS | {"costs": np.array([1j, 1, 1])},
        "costs-text": ARRAYS | {"costs": np.array(["a", "b", "c"])},
        "costs-of-another-shape": ARRAYS | {"costs": np.array([1.0, 1.0])},
        "costs-structured": ARRAYS | {"costs": np.zeros(3, dtype=[("a", "i4")])},
        "offsets-falling": ARRAYS | {"offsets": np.array([0, 3, 2, 3])},
        "offsets-negative": ARRAYS | {"offsets": np.array([0, -1, 3])},
        "offsets-late": ARRAYS | {"offsets": np.array([1, 2, 3])},
        "offsets-beyond": ARRAYS | {"offsets": np.array([0, 2, 300])},
        "offsets-with-an-empty-group": ARRAYS | {"offsets": np.array([0, 2, 2, 3])},
        "offsets-alone": ARRAYS | {"offsets": np.array([0])},
        "offsets-a-number": ARRAYS | {"offsets": np.array(0)},
        "budget-two": ARRAYS | {"budget": np.array([10, 20])},
        "budget-nan": ARRAYS | {"budget": np.array(np.nan)},
        "budget-text": ARRAYS | {"budget": np.array("10")},
        "budget-date": ARRAYS | {"budget": np.array("2020-01-01", dtype="datetime64[ns]")},
        "row-limits-alone": ARRAYS | {"row_limits": np.array([3])},
        "row-weights-too-few": ARRAYS
        | {"row_limits": np.array([3]), "row_weights": np.array([1, 2])},
        "row-weights-negative": ARRAYS
        | {"row_limits": np.array([3]), "row_weights": np.array([[-1, 2, 2]])},
        "names-too-few": ARRAYS | {"group_names": np.array(["a"])},
        "names-twice": ARRAYS | {"group_names": np.array(["a", "a"])},
        "names-numbers": ARRAYS | {"group_names": np.array([1, 2])},
    }


def _archives() -> dict[str, bytes]:
    good = pack(ARRAYS)
    claims = (
        b"\x93NUMPY\x01\x00v\x00"
        + (
            "{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000000,), }".ljust(117)
            + "\n"
        ).encode()
    )
    return {
        "archive-truncated": good[: len(good) // 2],
        "archive-magic-only": b"PK",
        "archive-of-zeros": b"PK\x03\x04" + bytes(200),
        "archive-with-a-flipped-byte": good[:140] + bytes([good[140] ^ 255]) + good[141:],
        "archive-empty": _archive({}),
        "archive-of-text": _archive({"bytes.npy": b"not an array", "costs.npy": b""}),
        "archive-of-pickle": _archive({"bytes.npy": pickle.dumps([1]), "costs.npy": b""}),
        "archive-of-a-python-header": _archive(
            {"bytes.npy": b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16}
        ),
        "archive-claiming-petabytes": _archive({"bytes.npy": claims, "costs.npy": claims}),
        "archive-named-outside": _archive({"../../bytes.npy": b"x"}),
        "archive-bomb": _archive({"bytes.npy": bytes(50_000_000)}),
    }


def _archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()
