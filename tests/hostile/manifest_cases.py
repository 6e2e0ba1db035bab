"""Manifests that are damaged, or promise what cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.hostile.tiny import DEEP, DEEP_OBJECT

MODULE = "model.layers.0.mlp.up_proj"

MANIFEST: dict[str, Any] = {
    "schema_version": 1,
    "model": {
        "name": "org/model",
        "revision": "main",
        "digest": "0" * 64,
        "model_type": "llama",
        "weights": 4096,
    },
    "measurement": "1" * 64,
    "encoder": "careful",
    "sensitivity": "fisher",
    "rotation": "none",
    "request": {"budget": 5000},
    "budget_bytes": 5000,
    "file_bytes": 4096,
    "certificate": {
        "predicted_kl_nats_per_token": 0.5,
        "bound": 0.4,
        "gap": 0.2,
        "shadow_price_nats_per_byte": 1e-9,
        "status": "optimal",
        "solver": "core",
    },
    "modules": {MODULE: {"format": "affine4g64", "bytes": 2000, "t2": 0.01, "kl_nats": 0.5}},
    "kv_cache": None,
    "notes": [],
}

KV_CHOICE = {"bits": 8, "group_size": 64, "bytes": 10, "kl_nats": 0.1}

Change = Callable[[dict[str, Any]], Any]


def cases() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every case."""
    text = json.dumps(MANIFEST).encode()
    yield from {
        "empty": b"",
        "space": b"   ",
        "no-json": b"manifest",
        "list": b"[]",
        "text": b'"manifest"',
        "null": b"null",
        "number": b"7",
        "empty-object": b"{}",
        "truncated-early": text[:30],
        "truncated-late": text[:-2],
        "trailing-garbage": text + b"}",
        "two-documents": text + text,
        "deep-list": DEEP,
        "deep-object": DEEP_OBJECT,
        "deep-inside": text.replace(b'"notes": []', b'"notes": ' + DEEP),
        "invalid-utf8": text.replace(b"llama", b"ll\xffma"),
        "utf16": text.decode().encode("utf-16"),
        "pickle": b"\x80\x04\x95",
        "zeros": bytes(1000),
        "number-of-many-digits": text.replace(b"4096", b"9" * 10_000),
        "larger-than-any": b" " * (64 * 2**20 + 1),
    }.items()
    for name, change in {**_changes(), **_module_changes()}.items():
        document = json.loads(text)
        change(document)
        yield name, json.dumps(document).encode()
    for name in MANIFEST:
        if name not in {"schema_version", "rotation", "kv_cache", "notes"}:
            yield f"without-{name}", json.dumps({**MANIFEST, name: None}).encode()


def _changes() -> dict[str, Change]:
    def top(**changes: object) -> Change:
        return lambda document: document.update(changes)

    def part(name: str, /, **changes: object) -> Change:
        return lambda document: document[name].update(changes)

    return {
        "version-zero": top(schema_version=0),
        "version-later": top(schema_version=2),
        "version-text": top(schema_version="one"),
        "field-unknown": top(code="import os"),
        "encoder-unknown": top(encoder="magic"),
        "sensitivity-unknown": top(sensitivity="magic"),
        "file-bytes-text": top(file_bytes="all"),
        "file-bytes-fraction": top(file_bytes=0.5),
        "file-bytes-nan": top(file_bytes=float("nan")),
        "file-bytes-negative": top(file_bytes=-1),
        "budget-negative": top(budget_bytes=-1),
        "modules-list": top(modules=[]),
        "modules-null": top(modules=None),
        "modules-text": top(modules={MODULE: "affine4g64"}),
        "notes-text": top(notes="note"),
        "notes-numbers": top(notes=[1]),
        "kv-cache-list": top(kv_cache=[16]),
        "kv-cache-of-no-layer": top(kv_cache={"x": KV_CHOICE}),
        "kv-cache-of-negative-bytes": top(kv_cache={"0": {**KV_CHOICE, "bytes": -1}}),
        "request-empty": top(request={}),
        "request-with-a-job": top(request={"budget": 5, "deliver": "checkpoint"}),
        "request-budget-of-words": top(request={"budget": "much"}),
        "request-budget-object": top(request={"budget": {}}),
        "request-pins-of-no-format": top(request={"budget": 5, "pins": {"*": "affine9g64"}}),
        "certificate-nan": part("certificate", bound=float("nan")),
        "certificate-infinite": part("certificate", gap=float("inf")),
        "certificate-kl-nan": part("certificate", predicted_kl_nats_per_token=float("nan")),
        "certificate-status": part("certificate", status="perfect"),
        "certificate-more": part("certificate", more=1),
        "model-name-number": part("model", name=5),
        "model-more": part("model", path="/etc/passwd"),
    }


def _module_changes() -> dict[str, Change]:
    def module(**changes: object) -> Change:
        return lambda document: document["modules"][MODULE].update(changes)

    return {
        "format-unknown": module(format="affine7g64"),
        "format-group": module(format="affine4g63"),
        "format-empty": module(format=""),
        "format-null": module(format=None),
        "format-number": module(format=4),
        "format-list": module(format=["affine4g64"]),
        "format-long": module(format="affine4g64" * 10_000),
        "format-newline": module(format="affine4g64\n"),
        "bytes-negative": module(bytes=-1),
        "bytes-fraction": module(bytes=1.5),
        "bytes-text": module(bytes="many"),
        "t2-negative": module(t2=-0.1),
        "t2-nan": module(t2=float("nan")),
        "t2-infinite": module(t2=float("inf")),
        "t2-text": module(t2="x"),
        "kl-negative": module(kl_nats=-1.0),
        "kl-infinite": module(kl_nats=float("inf")),
        "module-more": module(code="x"),
    }
