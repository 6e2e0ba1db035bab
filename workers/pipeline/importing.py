"""Taking a measurement that somebody else made: read as data, compared with the weights, kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bitbudget.app.contract.reports import ImportedMeasurement, MeasuredModel
from bitbudget.app.contract.tasks import ImportTask
from bitbudget.app.core.canonical import sha256_of
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.hub_id import HubPlace
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.measurement import Measurement, ModelIdentity
from bitbudget.app.core.measurement_file import MAX_MEASUREMENT_BYTES, file_bytes, read_file
from bitbudget.app.core.measurement_way import WAY, check_stated
from bitbudget.app.core.requests import Rotation
from bitbudget.workers.models.given import read_given
from bitbudget.workers.pipeline.files import write_whole
from bitbudget.workers.pipeline.measuring.elsewhere import check_inventory, check_weights
from bitbudget.workers.pipeline.run import Run, Variant

__all__ = ["imported"]


def imported(task: ImportTask, run: Run) -> ImportedMeasurement:
    """Return what was taken; InvalidRequestError names what is wrong with it."""
    variant = run.find(Variant)
    identity = None if variant is None else variant.checkpoint.identity(run.home.digests)
    found = _found(task, identity)
    check_stated(task.source, found, _stated(task))
    passed_on = file_bytes(found)
    if variant is not None and identity is not None:
        _check_model(task.source, found, identity, variant.inventory)
        found = replace(found, model=identity, inventory=_trusted(found, variant.inventory))
    path = run.home.imported(found.key)
    if task.keep:
        write_whole(path, found.to_json())
    return ImportedMeasurement(
        measurement=str(path if task.keep else task.source),
        sha256=sha256_of(passed_on),
        bytes=len(passed_on),
        key=found.key,
        model=MeasuredModel(
            name=found.model.name, revision=found.model.revision, digest=found.model.digest
        ),
        effort=found.effort.value,
        encoder=found.encoder.value,
        sensitivity=found.sensitivity.value,
        rotation=found.rotation,
        text=found.text,
        modules=len(found.curves),
        origin=found.origin,
        verified_for=task.model,
    )


def _trusted(found: Measurement, inventory: Inventory) -> Inventory:
    """Return what the model's own headers say, where the measurement is of the model as it is."""
    return inventory if found.rotation == Rotation.NONE.value else found.inventory


def _found(task: ImportTask, identity: ModelIdentity | None) -> Measurement:
    path = Path(task.source).expanduser()
    if path.is_file():
        return read_file(read_given(path, MAX_MEASUREMENT_BYTES), task.source)
    if not _is_place(task.source):
        raise InvalidRequestError(
            where="--measurement",
            found=f"no file {task.source!r}",
            expected="a file that bitbudget measurement export wrote, or [datasets/]org/name",
            remedy="check the path",
        )
    from bitbudget.workers.hub.client import Hub  # noqa: PLC0415, a file needs no network
    from bitbudget.workers.hub.measurements import fetch_measurement  # noqa: PLC0415, as above

    wanted = {part: value for part, value in _stated(task).items() if value is not None}
    if identity is not None:
        wanted["model"] = identity.digest[:16]
    return fetch_measurement(Hub(), HubPlace.parse(task.source, "--measurement"), wanted)


def _stated(task: ImportTask) -> dict[str, str | None]:
    return {part: getattr(task, part) for part in WAY}


def _is_place(source: str) -> bool:
    try:
        HubPlace.parse(source)
    except InvalidRequestError:
        return False
    return True


def _check_model(
    source: str, found: Measurement, identity: ModelIdentity, inventory: Inventory
) -> None:
    check_weights(found, identity, source)
    if found.rotation == Rotation.NONE.value:
        check_inventory(found, inventory)
