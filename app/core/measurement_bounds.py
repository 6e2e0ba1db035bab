"""Bounds of what others measured: numbers that can be stored, curves that can be allocated on.

A document that somebody else made is data. It is checked here before anything is computed with it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from typing import Final

from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.calibration_text import NO_TEXT, OwnText
from bitbudget.app.core.errors import BitbudgetError, InvalidRequestError
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.measurement import METRIC_VERSION, Measurement, ModelIdentity
from bitbudget.app.core.requests import AllocationRequest, Rotation

__all__ = [
    "check_identity",
    "check_inventory",
    "check_measured",
    "check_text",
    "is_digest",
    "is_origin",
    "refusal",
    "require",
]

_SOLVING_SECONDS: Final = 2.0
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_ORIGIN: Final = re.compile(r"(datasets/)?[A-Za-z0-9._-]{1,96}/[A-Za-z0-9._-]{1,96}@[0-9a-f]{40}")
_MOST_DIMENSIONS: Final = 8
_MOST_MODULES: Final = 200_000
_LARGEST_LAYER: Final = 2**31 - 1
_LARGEST: Final = 2**53
_MOST_WEIGHTS: Final = 2**50
_MOST_NATS: Final = 1e6
_MOST_NOTES: Final = 1000
_UNSOLVABLE: Final = (ValueError, LookupError, ArithmeticError, TypeError)
_LONGEST: Final = {
    "name": 1024,
    "revision": 255,
    "type": 128,
    "path": 512,
    "role": 128,
    "feature": 128,
    "note": 8192,
    "config": 2**16,
}
"""Characters that PostgreSQL has room for."""


def check_measured(measurement: Measurement) -> None:
    """Raise InvalidRequestError unless all of a measurement is within bounds and can be solved."""
    require("metric_version", measurement.metric_version, METRIC_VERSION)
    check_identity(measurement.model)
    check_inventory(measurement.inventory)
    _check_numbers("tokens", [measurement.tokens])
    known = (*OwnText, NO_TEXT)
    if not (measurement.text in known or is_digest(measurement.text)):
        raise refusal("text", measurement.text, f"{', '.join(known)} or a SHA-256")
    rotations = [rotation.value for rotation in Rotation if rotation is not Rotation.AUTO]
    if measurement.rotation not in rotations:
        raise refusal("rotation", measurement.rotation, " or ".join(rotations))
    if measurement.origin and not is_origin(measurement.origin):
        raise refusal("origin", measurement.origin, "[datasets/]org/name@commit")
    if len(measurement.warnings) > _MOST_NOTES:
        raise refusal("warnings", len(measurement.warnings), f"at most {_MOST_NOTES}")
    for warning in measurement.warnings:
        check_text("warnings", warning, _LONGEST["note"])
    _check_curves(measurement)
    cached = {cache.layer for cache in measurement.inventory.architecture.cache}
    layers = [curve.layer for curve in measurement.kv_curves]
    if len(set(layers)) != len(layers) or not cached.issuperset(layers):
        raise refusal("kv_curves", layers, "layers that have a cache, each once")
    _check_solvable(measurement)


def check_identity(identity: ModelIdentity) -> None:
    """Raise InvalidRequestError unless it names weights by a digest, in printable words."""
    if not is_digest(identity.digest):
        raise refusal("model.digest", identity.digest, "a SHA-256 in hexadecimal")
    check_text("model.name", identity.name, _LONGEST["name"])
    check_text("model.revision", identity.revision, _LONGEST["revision"])


def check_inventory(inventory: Inventory) -> None:
    """Raise InvalidRequestError unless every module has a name and a shape that can be."""
    architecture = inventory.architecture
    check_text("architecture.model_type", architecture.model_type, _LONGEST["type"])
    paths = {module.path for module in inventory.modules}
    if len(paths) != len(inventory.modules) or not 1 <= len(paths) <= _MOST_MODULES:
        raise refusal("modules", len(inventory.modules), f"1 to {_MOST_MODULES}, each once")
    for module in inventory.modules:
        check_text("module.path", module.path, _LONGEST["path"])
        check_text("module.role", module.role, _LONGEST["role"])
        check_text("module.decision_group", module.decision_group, _LONGEST["path"])
        _check_shape(module.path, module.shape, least=1)
        numbers = (module.layer or 0, module.experts_per_token, module.floor_bits)
        _check_numbers(module.path, numbers, _LARGEST_LAYER)
    for array in inventory.passthrough:
        check_text("passthrough", array.name, _LONGEST["path"])
        _check_shape(array.name, array.shape, least=0)
    check_text("config", json.dumps(inventory.config), _LONGEST["config"])
    for note in inventory.notes:
        check_text("notes", note, _LONGEST["note"])
    sizes = [getattr(architecture, name) for name in _SIZES]
    _check_numbers("architecture", sizes)
    for cache in architecture.cache:
        _check_numbers("architecture.cache", [getattr(cache, name) for name in _CACHE_SIZES])
    if inventory.weights > _MOST_WEIGHTS:
        raise refusal("weights", inventory.weights, f"at most {_MOST_WEIGHTS}")


_SIZES: Final = (
    "hidden_size",
    "intermediate_size",
    "vocabulary_size",
    "layers",
    "attention_heads",
    "max_context",
    "experts",
    "experts_per_token",
)
_CACHE_SIZES: Final = (
    "layer",
    "elements_per_token",
    "bytes_per_token",
    "head_width",
    "window",
    "constant_bytes",
)


def refusal(where: str, found: object, expected: object) -> InvalidRequestError:
    """Return the error of a document with something in it that cannot be."""
    return InvalidRequestError(
        where=where,
        found=repr(found)[:120],
        expected=str(expected)[:200],
        remedy="make the document anew with this version of bitbudget",
    )


def require(where: str, found: object, expected: object) -> None:
    """Raise InvalidRequestError unless `found` is `expected`."""
    if found != expected:
        raise refusal(where, found, expected)


def is_digest(text: str) -> bool:
    """Whether `text` is a SHA-256 in lower-case hexadecimal."""
    return _DIGEST.fullmatch(text) is not None


def is_origin(text: str) -> bool:
    """Whether `text` is `[datasets/]org/name@commit`."""
    return _ORIGIN.fullmatch(text) is not None


def check_text(where: str, text: str, longest: int) -> None:
    """Raise InvalidRequestError unless `text` is printable and no longer than that."""
    if len(text) > longest or "\x00" in text or not text.isprintable():
        raise refusal(where, text, f"at most {longest} printable characters")


def _check_shape(where: str, shape: tuple[int, ...], least: int) -> None:
    if len(shape) > _MOST_DIMENSIONS or (least and not shape):
        raise refusal(where, f"{len(shape)} dimensions", f"1 to {_MOST_DIMENSIONS}")
    total = 1
    for size in shape:
        total *= size if least <= size <= _LARGEST else _MOST_WEIGHTS + 1
        if total > _MOST_WEIGHTS:
            raise refusal(where, "a huge or negative shape", f"at most {_MOST_WEIGHTS} elements")


def _check_numbers(where: str, numbers: Iterable[int], largest: int = _LARGEST) -> None:
    if any(not 0 <= number <= largest for number in numbers):
        raise refusal(where, "a number out of range", f"0 to {largest}")


def _check_curves(measurement: Measurement) -> None:
    """Refuse curves of other modules, a format twice, and costs no real model can have."""
    curves = sorted(curve.path for curve in measurement.curves)
    modules = sorted(module.path for module in measurement.inventory.modules)
    if curves != modules:
        raise refusal("curves", f"{len(curves)} paths", "those of the inventory's modules")
    for curve in measurement.curves:
        formats = [point.format for point in curve.points]
        if len(set(formats)) != len(formats):
            raise refusal(f"curve {curve.path}", "a format twice", "each format once")
        if any(point.kl_nats > _MOST_NATS for point in curve.points):
            raise refusal(f"curve {curve.path}", "a huge cost", f"at most {_MOST_NATS:g} nats")
        if not all(len(name) <= _LONGEST["feature"] for name in curve.features):
            raise refusal(f"curve {curve.path}", "a long name", "short names of features")


def _check_solvable(measurement: Measurement) -> None:
    """Refuse curves on which no later request could be answered."""
    end = time.monotonic() + _SOLVING_SECONDS
    try:
        allocate(
            measurement, AllocationRequest(min_safe=True), is_over=lambda: time.monotonic() > end
        )
    except BitbudgetError:
        raise
    except _UNSOLVABLE as error:
        raise refusal("curves", f"{type(error).__name__}: {error}", "an allocation") from error
