"""Weight files that are wrong in each way a safetensors file can be."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from tests.hostile.tiny import DEEP, Q_PROJ, SHAPES, Case, Header, header, model, pack, weights

_HEAD, _NBYTES = header()
_RAW = json.dumps(_HEAD).encode()
_DATA = bytes(_NBYTES)


def _weights(name: str, content: bytes) -> Case:
    return Case(f"weights-{name}", model(model__safetensors=content))


def cases() -> Iterator[Case]:
    """Every case."""
    for name, content in {**_lengths(), **_texts(), **_other_formats()}.items():
        yield _weights(name, content)
    for name, change in {**_entry_changes(), **_offset_changes()}.items():
        head, _ = header()
        change(head)
        yield _weights(name, pack(head, _DATA))
    for name, content in _wrong_tensors().items():
        yield _weights(name, content)


def _lengths() -> dict[str, bytes]:
    return {
        "empty": b"",
        "seven-bytes": b"\x02\0\0\0\0\0\0",
        "length-only": (2).to_bytes(8, "little"),
        "length-zero": pack(b"", b"", 0),
        "length-one": pack(b"{", b""),
        "length-beyond-file": pack(_RAW, b"", len(_RAW) + 1),
        "length-huge": pack(_RAW, _DATA, 2**40),
        "length-above-cap": pack(_RAW, _DATA, 100_000_001),
        "length-signed-minimum": pack(_RAW, _DATA, 2**63),
        "length-all-ones": pack(_RAW, _DATA, 2**64 - 1),
        "length-short": pack(_RAW, _DATA, len(_RAW) - 1),
        "length-into-data": pack(_RAW, _DATA, len(_RAW) + 5),
        "zeros": bytes(4096),
        "ones": b"\xff" * 4096,
        "data-missing": pack(_HEAD, b""),
        "data-one-byte-short": pack(_HEAD, _DATA[:-1]),
        "data-one-byte-long": pack(_HEAD, _DATA + b"x"),
        "half": weights()[: len(weights()) // 2],
    }


def _texts() -> dict[str, bytes]:
    twice = b"{" + _RAW[1:-1] + b"," + _RAW[1:]
    return {
        "header-no-json": pack(b"not json", b""),
        "header-list": pack(b"[]", b""),
        "header-string": pack(b'"a"', b""),
        "header-number": pack(b"12", b""),
        "header-null": pack(b"null", b""),
        "header-true": pack(b"true", b""),
        "header-empty-object": pack(b"{}", b""),
        "header-trailing-garbage": pack(_RAW + b"}", _DATA),
        "header-invalid-utf8": pack(_RAW.replace(b"model.norm", b"model.\xffrm"), _DATA),
        "header-utf16": pack(_RAW.decode().encode("utf-16"), _DATA),
        "header-byte-order-mark": pack(b"\xef\xbb\xbf" + _RAW, _DATA),
        "header-deep": pack(DEEP, b""),
        "header-deep-shape": pack(_replaced("[32]", "[" * 50_000 + "]" * 50_000), _DATA),
        "header-keys-twice": pack(twice, _DATA),
        "header-entry-keys-twice": pack(_replaced('"dtype"', '"dtype": "F32", "dtype"'), _DATA),
        "header-number-of-many-digits": pack(_replaced("[32]", f"[{'9' * 10_000}]"), _DATA),
        "header-keys-twice-among-many": pack(_many(20_000)[:-1] + b', "t19999": 1}', b""),
        "header-shape-of-4299-digits": pack(_replaced("[32]", f"[{'9' * 4299}]"), _DATA),
        "header-offsets-of-4299-digits": pack(_replaced("[0, ", f"[{'9' * 4299}, "), _DATA),
        "header-empty-tensors": pack(_many(20_000), b""),
        "header-nul-bytes": pack(_RAW + b"\0\0\0", _DATA),
        "header-single-quotes": pack(_RAW.replace(b'"', b"'"), _DATA),
        "header-control-characters": pack(_RAW.replace(b"model.norm", b"model.\x01rm"), _DATA),
        "metadata-list": pack(_with_metadata([]), _DATA),
        "metadata-number": pack(_with_metadata(5), _DATA),
        "metadata-nested": pack(_with_metadata({"a": {"b": "c"}}), _DATA),
    }


def _many(count: int) -> bytes:
    """Return a header of tensors without values."""
    entry = {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]}
    return json.dumps({f"t{number}": entry for number in range(count)}).encode()


def _replaced(old: str, new: str) -> bytes:
    return _RAW.replace(old.encode(), new.encode(), 1)


def _with_metadata(value: object) -> Header:
    return {"__metadata__": value, **_HEAD}


def _other_formats() -> dict[str, bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64
    return {
        "is-pickle": pickle.dumps({"model.norm.weight": [1.0] * 40}),
        "is-old-pickle": pickle.dumps({"model.norm.weight": [1.0] * 40}, protocol=0),
        "is-torch-archive": buffer.getvalue(),
        "is-gguf": b"GGUF\x03\0\0\0" + bytes(64),
        "is-npy": b"\x93NUMPY\x01\0" + b"{'descr': '<f4'}" + bytes(64),
        "is-lfs-pointer": pointer + b"\nsize 12345\n",
        "is-html": b"<!doctype html><html><body>404 Not Found</body></html>",
        "is-gzip": b"\x1f\x8b\x08\0" + bytes(64),
        "is-elf": b"\x7fELF\x02\x01\x01" + bytes(64),
        "is-json": b'{"error": "Repository not found"}',
    }


def _entry_changes() -> dict[str, Callable[[Header], Any]]:
    def entry(**changes: object) -> Callable[[Header], Any]:
        return lambda head: head[Q_PROJ].update(changes)

    def whole(value: object) -> Callable[[Header], Any]:
        return lambda head: head.update({Q_PROJ: value})

    return {
        "entry-null": whole(None),
        "entry-list": whole([]),
        "entry-text": whole("BF16"),
        "entry-number": whole(3),
        "entry-empty": whole({}),
        "entry-without-dtype": lambda head: head[Q_PROJ].pop("dtype"),
        "entry-without-shape": lambda head: head[Q_PROJ].pop("shape"),
        "entry-without-offsets": lambda head: head[Q_PROJ].pop("data_offsets"),
        "entry-with-more": entry(code="import os"),
        "dtype-unknown": entry(dtype="Q4_0"),
        "dtype-lower-case": entry(dtype="bf16"),
        "dtype-null": entry(dtype=None),
        "dtype-number": entry(dtype=16),
        "dtype-list": entry(dtype=["BF16"]),
        "dtype-object": entry(dtype={"a": 1}),
        "dtype-of-another-size": entry(dtype="F32"),
        "shape-null": entry(shape=None),
        "shape-text": entry(shape="32x32"),
        "shape-number": entry(shape=1024),
        "shape-negative": entry(shape=[-32, -32]),
        "shape-fraction": entry(shape=[32.0, 32.0]),
        "shape-nan": entry(shape=[float("nan"), 32]),
        "shape-infinite": entry(shape=[float("inf")]),
        "shape-boolean": entry(shape=[True, 1024]),
        "shape-nested": entry(shape=[[32, 32]]),
        "shape-overflowing-64-bits": entry(shape=[2**62, 2**62]),
        "shape-wrapping-to-its-size": entry(shape=[2**54 + 1, 1024]),
        "shape-of-many-dimensions": entry(shape=[1] * 1000 + [1024]),
    }


def _offset_changes() -> dict[str, Callable[[Header], Any]]:
    start, stop = _HEAD[Q_PROJ]["data_offsets"]

    def offsets(*values: object) -> Callable[[Header], Any]:
        return lambda head: head[Q_PROJ].update(data_offsets=list(values))

    return {
        "offsets-reversed": offsets(stop, start),
        "offsets-negative": offsets(start - stop, 0),
        "offsets-one": offsets(start),
        "offsets-three": offsets(start, stop, stop),
        "offsets-none": offsets(),
        "offsets-null": offsets(None, None),
        "offsets-text": offsets(str(start), str(stop)),
        "offsets-fraction": offsets(start + 0.5, stop + 0.5),
        "offsets-nan": offsets(float("nan"), float("nan")),
        "offsets-infinite": offsets(start, float("inf")),
        "offsets-overlapping": offsets(start - 2, stop - 2),
        "offsets-of-another-tensor": offsets(0, stop - start),
        "offsets-leaving-a-hole": offsets(start + 2, stop + 2),
        "offsets-beyond-the-file": offsets(_NBYTES, _NBYTES + stop - start),
        "offsets-beyond-64-bits": offsets(2**64 + start, 2**64 + stop),
        "offsets-too-wide": offsets(start, stop + 2),
        "offsets-empty": offsets(start, start),
    }


def _wrong_tensors() -> dict[str, bytes]:
    def shapes(**changes: list[int] | None) -> bytes:
        changed = {**SHAPES, **{name.replace("__", "."): s for name, s in changes.items()}}
        return weights({name: shape for name, shape in changed.items() if shape is not None})

    fewer = {name: shape for name, shape in SHAPES.items() if name != Q_PROJ}
    packed = {**fewer, Q_PROJ: [32, 4]}
    return {
        "tensor-missing": weights(fewer),
        "tensor-all-missing": weights({}),
        "tensor-unknown": weights({**SHAPES, "model.layers.0.backdoor.weight": [4]}),
        "tensor-of-a-layer-too-many": weights({**SHAPES, "model.layers.7.mlp.up_proj.weight": [4]}),
        "tensor-with-empty-name": weights({**SHAPES, "": [4]}),
        "tensor-with-path-for-a-name": weights({**SHAPES, "../../etc/passwd": [4]}),
        "tensor-with-python-name": weights({**SHAPES, "model.__class__.weight": [4]}),
        "tensor-with-nul-in-name": weights({**SHAPES, "model.\0.weight": [4]}),
        "tensor-with-dots-for-a-name": weights({**SHAPES, "....": [4]}),
        "tensor-transposed": shapes(model__layers__0__mlp__up_proj__weight=[32, 64]),
        "tensor-with-more-rows": shapes(model__embed_tokens__weight=[49, 32]),
        "tensor-without-rows": weights({**fewer, Q_PROJ: [0, 32]}),
        "tensor-without-dimensions": weights({**fewer, Q_PROJ: []}),
        "tensor-with-three-dimensions": weights({**fewer, Q_PROJ: [1, 32, 32]}),
        "tensor-of-integers": weights(dtypes={Q_PROJ: "I32"}),
        "tensor-of-booleans": weights(dtypes={Q_PROJ: "BOOL"}),
        "tensor-quantized-already": weights(packed, {Q_PROJ: "U32"}),
    }
