"""Measurements that were made elsewhere: imported ones, and those in repositories on the Hub.

The key of a measurement has the digest of the weights in it and how it was made: one with the key
that is wanted, of the modules that are here, is taken instead of measuring.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bitbudget.app.core.calibration_text import OwnText
from bitbudget.app.core.errors import BitbudgetError, InvalidRequestError
from bitbudget.app.core.formats import STOCK_FORMATS
from bitbudget.app.core.hub_id import HubPlace
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.measurement import Measurement, ModelIdentity
from bitbudget.workers.pipeline.files import write_whole
from bitbudget.workers.pipeline.options import MeasureOptions
from bitbudget.workers.pipeline.run import Run, Variant

__all__ = [
    "KnownMeasurement",
    "Repositories",
    "check_inventory",
    "check_weights",
    "known_measurement",
    "take_from_elsewhere",
]


@dataclass(frozen=True, slots=True)
class Repositories:
    """Where on the Hub to look for a measurement before making one, `[datasets/]org/name`."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KnownMeasurement:
    """The file of a measurement found before any weight is downloaded, or named by the request."""

    path: Path


_ANYONE_CAN_MAKE: Final = {"seed": 0, "formats": STOCK_FORMATS, "features": "default"}
"""Options that the key does not tell, as those who share measurements have them."""


def take_from_elsewhere(run: Run, variant: Variant, path: Path) -> None:
    """Put a measurement that was made elsewhere at `path`, where a fitting one is known."""
    identity = variant.checkpoint.identity(run.home.digests)
    for found in _candidates(run, identity, variant.options):
        if found.inventory == variant.inventory and _is_whole(found):
            write_whole(path, replace(found, inventory=variant.inventory).to_json())
            run.report.log(f"measured elsewhere: {found.origin or 'an imported file'}")
            return


def known_measurement(run: Run, identity: ModelIdentity, options: MeasureOptions) -> Path | None:
    """Return the file of a measurement of these weights: made here before, or elsewhere.

    On text that the model wrote in either way: which is its own, files beside the weights tell.
    """
    kinds = tuple(OwnText) if options.text_identity() in set(OwnText) else (options.own_text,)
    written = [replace(options, own_text=kind) for kind in kinds]
    for each in written:
        own = run.home.measurement(each.cache_name(identity)) / "measurement.json"
        if own.is_file():
            return own
    for each in written:
        for found in _candidates(run, identity, each):
            if _is_whole(found):
                return write_whole(run.home.imported(found.key), found.to_json())
    return None


def check_weights(found: Measurement, identity: ModelIdentity, where: str = "measurement") -> None:
    """Raise InvalidRequestError unless a measurement is of these weights, by their digest."""
    if found.model.digest != identity.digest:
        raise InvalidRequestError(
            where=f"{where}: model.digest",
            found=f"{found.model.digest}, weights of {found.model.name}"[:200],
            expected=f"{identity.digest}, those of {identity.name}"[:200],
            remedy="give a measurement of these weights, or measure them",
        )


def check_inventory(found: Measurement, inventory: Inventory) -> None:
    """Raise InvalidRequestError unless a measurement is of the modules in the model's headers."""
    if found.inventory != inventory:
        raise InvalidRequestError(
            where=f"measurement {found.origin or found.key[:16]}: inventory",
            found="other modules, shapes or types",
            expected="those of the model's files",
            remedy="the measurement is damaged or made up: get it from somebody else",
        )


def _candidates(
    run: Run, identity: ModelIdentity, options: MeasureOptions
) -> Iterator[Measurement]:
    if any(getattr(options, name) != value for name, value in _ANYONE_CAN_MAKE.items()):
        return
    key = options.key(identity)
    imported = run.home.imported(key)
    if imported.is_file():
        yield Measurement.from_json(imported.read_bytes())
    listed = run.find(Repositories)
    for name in () if listed is None else listed.names:
        try:
            found = _on_hub(name, key)
        except BitbudgetError as error:
            run.report.log(f"no measurement from {name}: {error}")
            continue
        if found is not None:
            yield found


def _on_hub(name: str, key: str) -> Measurement | None:
    from bitbudget.workers.hub.client import Hub  # noqa: PLC0415, most runs ask nobody
    from bitbudget.workers.hub.measurements import find_key  # noqa: PLC0415, as above

    return find_key(Hub(), HubPlace.parse(name, "BITBUDGET_MEASUREMENT_REPOSITORIES"), key)


def _is_whole(measurement: Measurement) -> bool:
    """Whether every module was measured in every format that it can have."""
    legal = {m.path: set(m.legal_formats()) for m in measurement.inventory.modules}
    return all(legal[c.path] <= {p.format for p in c.points} for c in measurement.curves)
