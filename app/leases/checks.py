"""What a worker uploads against the job it was given: whose model, measured how, and how large.

A worker is believed in what it measured of the model it was given, and in nothing else.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict

from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.audit import audit
from bitbudget.app.core.calibration_text import NO_TEXT, OwnText
from bitbudget.app.core.errors import BitbudgetError, InvalidRequestError
from bitbudget.app.core.hub_id import HubId
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement, ModelIdentity
from bitbudget.app.core.requests import AllocationRequest, JobRequest, Rotation

__all__ = ["Assignment", "KnownModel"]

_AUDIT_SECONDS: Final = 2.0
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_MOST_DIMENSIONS: Final = 8
_MOST_MODULES: Final = 200_000
_LARGEST_LAYER: Final = 2**31 - 1
_LARGEST: Final = 2**53
_MOST_WEIGHTS: Final = 2**50
_UNSOLVABLE: Final = (ValueError, LookupError, ArithmeticError, TypeError)
_LONGEST: Final = {
    "name": 1024,
    "revision": 255,
    "type": 128,
    "path": 512,
    "role": 128,
    "note": 1024,
    "config": 2**16,
}
"""Characters that PostgreSQL has room for."""


class KnownModel(BaseModel):
    """inventory.json: which weights, and what they are made of."""

    model_config = ConfigDict(extra="ignore")

    model: ModelIdentity
    inventory: Inventory


@dataclass(frozen=True, slots=True)
class Assignment:
    """A job and the newest inventory and measurement that its attempts have uploaded."""

    request: JobRequest
    inventory: KnownModel | None = None
    measurement: Measurement | None = None

    def check_model(self, identity: ModelIdentity, inventory: Inventory) -> None:
        """Raise InvalidRequestError unless this is the job's model, in storable numbers."""
        _check_identity(identity, self.request)
        _check_inventory(inventory)

    def check_measurement(self, measurement: Measurement) -> None:
        """Raise InvalidRequestError unless it was made of the job's model in the way it asked."""
        self.check_model(measurement.model, measurement.inventory)
        _check_way(measurement, self.request)
        _check_numbers("tokens", [measurement.tokens])
        if self.inventory is not None:
            known = self.inventory
            _require("model digest", measurement.model.digest, known.model.digest)
            same = measurement.inventory == known.inventory
            _require("inventory", "another" if not same else "", "" if same else "inventory.json's")
        _check_solvable(measurement)

    def check_manifest(self, manifest: Manifest) -> None:
        """Raise InvalidRequestError unless it is a true answer to the job on its measurement."""
        if self.measurement is None:
            raise _refusal("measurement", "none uploaded", "measurement.json before manifest.json")
        end = time.monotonic() + _AUDIT_SECONDS
        audit(
            manifest,
            self.measurement,
            self.request,
            seconds=_AUDIT_SECONDS,
            is_over=lambda: time.monotonic() > end,
        )


def _refusal(where: str, found: object, expected: object) -> InvalidRequestError:
    return InvalidRequestError(
        where=where,
        found=repr(found)[:120],
        expected=str(expected)[:200],
        remedy="upload what was made for this job, with a worker of the server's version",
    )


def _require(where: str, found: object, expected: object) -> None:
    if found != expected:
        raise _refusal(where, found, expected)


def _check_identity(identity: ModelIdentity, request: JobRequest) -> None:
    if not _DIGEST.fullmatch(identity.digest):
        raise _refusal("model.digest", identity.digest, "a SHA-256 in hexadecimal")
    _check_text("model.name", identity.name, _LONGEST["name"])
    _check_text("model.revision", identity.revision, _LONGEST["revision"])
    if request.name is not None:
        _require("model.name", identity.name, request.name)
    if not HubId.matches(request.model):
        return
    asked = HubId.parse(request.model)
    if request.name is None:
        _require("model.name", identity.name, asked.repository)
    if asked.revision is not None and _COMMIT.fullmatch(asked.revision):
        _require("model.revision", identity.revision, asked.revision)


def _check_text(where: str, text: str, longest: int) -> None:
    if len(text) > longest or "\x00" in text or not text.isprintable():
        raise _refusal(where, text, f"at most {longest} printable characters")


def _check_inventory(inventory: Inventory) -> None:
    architecture = inventory.architecture
    _check_text("architecture.model_type", architecture.model_type, _LONGEST["type"])
    paths = {module.path for module in inventory.modules}
    if len(paths) != len(inventory.modules) or not 1 <= len(paths) <= _MOST_MODULES:
        raise _refusal("modules", len(inventory.modules), f"1 to {_MOST_MODULES}, each once")
    for module in inventory.modules:
        _check_text("module.path", module.path, _LONGEST["path"])
        _check_text("module.role", module.role, _LONGEST["role"])
        _check_text("module.decision_group", module.decision_group, _LONGEST["path"])
        _check_shape(module.path, module.shape, least=1)
        numbers = (module.layer or 0, module.experts_per_token, module.floor_bits)
        _check_numbers(module.path, numbers, _LARGEST_LAYER)
    for array in inventory.passthrough:
        _check_text("passthrough", array.name, _LONGEST["path"])
        _check_shape(array.name, array.shape, least=0)
    _check_text("config", json.dumps(inventory.config), _LONGEST["config"])
    for note in inventory.notes:
        _check_text("notes", note, _LONGEST["note"])
    sizes = [getattr(architecture, name) for name in _SIZES]
    _check_numbers("architecture", sizes)
    for cache in architecture.cache:
        _check_numbers("architecture.cache", [getattr(cache, name) for name in _CACHE_SIZES])
    if inventory.weights > _MOST_WEIGHTS:
        raise _refusal("weights", inventory.weights, f"at most {_MOST_WEIGHTS}")


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


def _check_shape(where: str, shape: tuple[int, ...], least: int) -> None:
    if len(shape) > _MOST_DIMENSIONS or (least and not shape):
        raise _refusal(where, f"{len(shape)} dimensions", f"1 to {_MOST_DIMENSIONS}")
    total = 1
    for size in shape:
        total *= size if least <= size <= _LARGEST else _MOST_WEIGHTS + 1
        if total > _MOST_WEIGHTS:
            raise _refusal(where, "a huge or negative shape", f"at most {_MOST_WEIGHTS} elements")


def _check_numbers(where: str, numbers: Iterable[int], largest: int = _LARGEST) -> None:
    if any(not 0 <= number <= largest for number in numbers):
        raise _refusal(where, "a number out of range", f"0 to {largest}")


def _check_way(measurement: Measurement, request: JobRequest) -> None:
    """Check encoder, sensitivity, rotation and text; a file's digest is known to its worker."""
    _require("effort", measurement.effort, request.effort)
    _require("encoder", measurement.encoder, request.encoder)
    _require("sensitivity", measurement.sensitivity, request.sensitivity)
    rotation = request.rotation
    allowed = (Rotation.NONE, Rotation.FOLDED) if rotation is Rotation.AUTO else (rotation,)
    if measurement.rotation not in allowed:
        raise _refusal("rotation", measurement.rotation, " or ".join(allowed))
    known = (*OwnText, NO_TEXT)
    if not (measurement.text in known or _DIGEST.fullmatch(measurement.text)):
        raise _refusal("text", measurement.text, f"{', '.join(known)} or a SHA-256")
    if request.text is None and measurement.text not in known:
        raise _refusal("text", measurement.text, f"{' or '.join(known)}: the job names no text")


def _check_solvable(measurement: Measurement) -> None:
    """Refuse curves on which no later request could be answered."""
    curves = sorted(curve.path for curve in measurement.curves)
    modules = sorted(module.path for module in measurement.inventory.modules)
    if curves != modules:
        raise _refusal("curves", f"{len(curves)} paths", "those of the inventory's modules")
    end = time.monotonic() + _AUDIT_SECONDS
    try:
        allocate(
            measurement, AllocationRequest(min_safe=True), is_over=lambda: time.monotonic() > end
        )
    except BitbudgetError:
        raise
    except _UNSOLVABLE as error:
        raise _refusal("curves", f"{type(error).__name__}: {error}", "an allocation") from error
