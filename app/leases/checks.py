"""What a worker uploads against the job it was given: whose model, measured how, and how large.

A worker is believed in what it measured of the model it was given, and in nothing else.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict

from bitbudget.app.core.audit import audit
from bitbudget.app.core.effort import Effort, efforts_up_to
from bitbudget.app.core.hub_id import HubId
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement, ModelIdentity
from bitbudget.app.core.measurement_bounds import (
    check_identity,
    check_inventory,
    check_measured,
    refusal,
    require,
)
from bitbudget.app.core.measurement_way import check_way
from bitbudget.app.core.requests import JobRequest

__all__ = ["Assignment", "KnownModel"]

_AUDIT_SECONDS: Final = 2.0
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


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
        check_inventory(inventory)

    def check_measurement(self, measurement: Measurement) -> None:
        """Raise InvalidRequestError unless it was made of the job's model in the way it asked."""
        _check_identity(measurement.model, self.request)
        check_measured(measurement)
        check_way(measurement, self._request_at(measurement.effort))
        if self.request.measurement is not None:
            require("key", measurement.key, self.request.measurement)
        if self.inventory is not None:
            known = self.inventory
            require("model digest", measurement.model.digest, known.model.digest)
            same = measurement.inventory == known.inventory
            require("inventory", "another" if not same else "", "" if same else "inventory.json's")

    def check_manifest(self, manifest: Manifest) -> None:
        """Raise InvalidRequestError unless it is a true answer to the job on its measurement."""
        if self.measurement is None:
            raise refusal("measurement", "none uploaded", "measurement.json before manifest.json")
        end = time.monotonic() + _AUDIT_SECONDS
        audit(
            manifest,
            self.measurement,
            self._request_at(self.measurement.effort),
            seconds=_AUDIT_SECONDS,
            is_over=lambda: time.monotonic() > end,
        )

    def _request_at(self, effort: Effort) -> JobRequest:
        """Return the request; one with a limit of time at the effort that a worker chose by it."""
        limited = self.request.max_minutes is not None
        chosen = limited and effort in efforts_up_to(self.request.effort)
        return self.request.at_effort(effort) if chosen else self.request


def _check_identity(identity: ModelIdentity, request: JobRequest) -> None:
    check_identity(identity)
    if request.name is not None:
        require("model.name", identity.name, request.name)
    if not HubId.matches(request.model):
        return
    asked = HubId.parse(request.model)
    if request.name is None:
        require("model.name", identity.name, asked.repository)
    if asked.revision is not None and _COMMIT.fullmatch(asked.revision):
        require("model.revision", identity.revision, asked.revision)
