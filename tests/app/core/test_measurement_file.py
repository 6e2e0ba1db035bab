"""A measurement that is passed on: canonical bytes, bounds, and what is refused."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
from pydantic import TypeAdapter

import bitbudget.app.core.measurement_file as module
from bitbudget.app.core.canonical import canonical_json, sha256_of
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import ALL_FORMATS, KEEP
from bitbudget.app.core.inventory import Module, ModuleKind
from bitbudget.app.core.measurement import (
    KEEP_POINT,
    METRIC_VERSION,
    Curve,
    CurvePoint,
    Measurement,
)
from bitbudget.app.core.measurement_file import FileName, file_bytes, file_digest, read_file
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.solving import allocate_manifest
from tests.support.speed import processor_limit

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_Change = Callable[[dict[str, Any]], Any]


def test_the_committed_schema_is_the_models_own(measurement: Measurement) -> None:
    file = Path(module.__file__).with_name("measurement.schema.json")
    schema = json.loads(file.read_bytes())
    made = TypeAdapter(Measurement).json_schema(mode="serialization")
    assert schema == {
        "$schema": _DIALECT,
        "$id": f"urn:bitbudget:measurement:{METRIC_VERSION}",
        **made,
    }
    jsonschema.Draft202012Validator(schema).validate(json.loads(file_bytes(measurement)))


def test_what_is_passed_on_is_read_back_whole(measurement: Measurement) -> None:
    data = file_bytes(measurement)
    found = read_file(data)
    assert file_bytes(found) == data
    assert file_digest(found) == sha256_of(data)
    taken = replace(found, origin="datasets/me/them@" + "0" * 40)
    assert file_bytes(taken) == data


def test_another_copy_gives_the_same_manifest(measurement: Measurement) -> None:
    request = AllocationRequest(budget=120_000)
    here = allocate_manifest(measurement, request)
    there = allocate_manifest(read_file(file_bytes(measurement)), request)
    assert there.to_bytes() == here.to_bytes()
    origin = "me/them@" + "0" * 40
    named = allocate_manifest(replace(measurement, origin=origin), request)
    assert named.origin == origin
    assert named.modules == here.modules


def test_a_name_says_of_which_weights_and_how(measurement: Measurement) -> None:
    name = FileName.of(measurement)
    assert name.says("model") == measurement.model.digest[:16]
    assert name.says("encoder") == "yaqa"
    assert name.says("key") == measurement.key[:16]
    assert FileName("measurement.json").says("key") == ""


def test_thirty_billion_weights_are_read_within_a_second(measurement: Measurement) -> None:
    data = file_bytes(_large(measurement))
    with processor_limit(1.0):
        found = read_file(data)
    assert found.inventory.weights > 29e9


def _large(measurement: Measurement) -> Measurement:
    """48 layers of 128 stacked experts, as Qwen3-30B-A3B has them."""
    shapes = {"q_proj": (4096, 2048), "k_proj": (512, 2048), "v_proj": (512, 2048)} | {
        "o_proj": (2048, 4096),
        "gate": (128, 2048),
        "up_proj": (128, 768, 2048),
        "gate_proj": (128, 768, 2048),
        "down_proj": (128, 2048, 768),
    }
    dtype = measurement.inventory.modules[0].dtype
    modules = tuple(
        Module(
            path := f"model.layers.{layer}.{name}",
            ModuleKind.SWITCH_LINEAR if len(shape) == 3 else ModuleKind.LINEAR,
            shape,
            dtype,
            path,
            layer,
        )
        for layer in range(48)
        for name, shape in shapes.items()
    )
    curves = []
    for index, each in enumerate(modules):
        legal = [f for f in each.legal_formats(ALL_FORMATS) if f != KEEP]
        t2 = {f: 4.0**-f.bits * (1 + f.group_size / 256) for f in legal}
        points = (CurvePoint(f, t2[f], t2[f] * (index + 1) * 1e-3, 0.01) for f in legal)
        features = {"excess_kurtosis": index / 7, "outlier_fraction": 1 / (index + 1)}
        curves.append(Curve(each.path, 0.001 * (index + 1), (*points, KEEP_POINT), "", features))
    inventory = replace(measurement.inventory, modules=modules)
    return replace(measurement, inventory=inventory, curves=tuple(curves), kv_curves=())


def _point(**changes: object) -> _Change:
    return lambda document: document["curves"][1]["points"][0].update(changes)


def _module(**changes: object) -> _Change:
    return lambda document: document["inventory"]["modules"][1].update(changes)


_CHANGES: dict[str, tuple[_Change, str]] = {
    "another version": (lambda d: d.update(metric_version=METRIC_VERSION + 1), "metric_version"),
    "no digest": (lambda d: d["model"].update(digest="x"), "model.digest"),
    "a name of control characters": (lambda d: d["model"].update(name="a\x1b[2J"), "model.name"),
    "an unknown field": (lambda d: d.update(run="rm -rf"), "unknown field document.run"),
    "a missing field": (lambda d: d.pop("curves"), "curves"),
    "no modules": (lambda d: d["inventory"].update(modules=[]), "modules"),
    "a curve too few": (lambda d: d["curves"].pop(), "curves"),
    "a curve twice": (lambda d: d["curves"].append(d["curves"][0]), "curves"),
    "a module's shape negative": (_module(shape=[-128, 128]), "shape"),
    "a module's shape huge": (_module(shape=[2**40, 2**40]), "shape"),
    "a path of half a megabyte": (_module(path="x" * 2**19), "module.path"),
    "a format twice": (
        lambda d: d["curves"][0]["points"].append(d["curves"][0]["points"][0]),
        "a format twice",
    ),
    "an unknown format": (_point(format="affine9g64"), "format"),
    "a negative cost": (_point(kl_nats=-1.0), "kl_nats"),
    "a huge cost": (_point(kl_nats=1e300), "a huge cost"),
    "an error as text": (_point(t2="low"), "t2"),
    "tokens below nothing": (lambda d: d.update(tokens=-1), "tokens"),
    "a rotation nobody knows": (lambda d: d.update(rotation="spun"), "rotation"),
    "a text that is a path": (lambda d: d.update(text="/etc/passwd"), "text"),
    "an origin of its own": (lambda d: d.update(origin="me/them@" + "0" * 40), "origin"),
    "a cache of no layer": (
        lambda d: d.update(kv_curves=[{"layer": 99, "points": [], "keys": [], "values": []}]),
        "kv_curves",
    ),
}


@pytest.mark.parametrize("name", _CHANGES)
def test_a_tampered_measurement_is_refused(measurement: Measurement, name: str) -> None:
    change, said = _CHANGES[name]
    document = json.loads(file_bytes(measurement))
    change(document)
    _refused(canonical_json(document), said)


def _deep(data: bytes) -> bytes:
    return data.replace(b'"warnings":[]', b'"warnings":' + b"[" * 100_000 + b"]" * 100_000)


def _zipped(data: bytes) -> bytes:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("measurement.json", data)
    return packed.getvalue()


_BYTES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda _: b"", "expected"),
    "a pickle": (lambda _: b"\x80\x04\x95", "expected"),
    "half of it": (lambda data: data[: len(data) // 2], "EOF"),
    "not UTF-8": (lambda data: data.replace(b"layers", b"l\xffyers"), "expected"),
    "a list": (lambda _: b"[]", "expected"),
    "too large": (lambda data: data + b" " * module.MAX_MEASUREMENT_BYTES, "bytes"),
    "gzip": (lambda data: gzip.compress(data + b" " * 2**20), "gzip"),
    "zip": (_zipped, "zip"),
    "NaN": (lambda data: data.replace(b'"t2":', b'"t2":NaN,"x":', 1), "t2"),
    "infinite": (lambda data: data.replace(b'"alpha_nats":', b'"alpha_nats":1e999,"x":', 1), "x"),
    "a key twice": (
        lambda data: data.replace(b'"encoder":', b'"encoder":"minmax","encoder":', 1),
        "key 'encoder' twice",
    ),
    "spaces": (lambda data: data.replace(b":", b": ", 1), "canonical"),
    "a hundred thousand brackets": (_deep, "recursion"),
}


@pytest.mark.parametrize("name", _BYTES)
def test_bytes_that_are_no_measurement_are_refused(measurement: Measurement, name: str) -> None:
    change, said = _BYTES[name]
    _refused(change(file_bytes(measurement)), said)


def _refused(data: bytes, said: str) -> None:
    with processor_limit(2.0), pytest.raises(InvalidRequestError) as refused:
        read_file(data, "theirs.json")
    assert str(refused.value).startswith("theirs.json")
    assert said in str(refused.value)
    assert len(str(refused.value)) < 1000
