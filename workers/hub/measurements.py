"""Measurements in repositories on the Hub: found by the weights they are of, read as data.

A repository holds them as `measurement.MODEL.EFFORT.ENCODER.SENSITIVITY.ROTATION.KEY.json` at its
top level, beside a model or alone. Names only find a file: the digests in it decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from huggingface_hub import CommitOperationAdd

from bitbudget.app.core.canonical import sha256_of
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.errors import InvalidRequestError, NotFoundError
from bitbudget.app.core.hub_id import HubPlace
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.measurement_file import (
    MAX_MEASUREMENT_BYTES,
    FileName,
    file_bytes,
    read_file,
)
from bitbudget.workers.hub.client import Hub, HubFile, HubModel
from bitbudget.workers.hub.download import check_digest
from bitbudget.workers.hub.upload import Published, ask

__all__ = ["fetch_measurement", "find_key", "publish_measurement"]

_PLAIN: Final = "measurement.json"
_EFFORTS: Final = [effort.value for effort in Effort]


def fetch_measurement(hub: Hub, place: HubPlace, wanted: Mapping[str, str]) -> Measurement:
    """Return the measurement in a repository that is made as `wanted` says, checked.

    `wanted` are parts of its name: `model` (a digest), `effort`, `encoder`, `sensitivity` and
    `rotation`. Of several the one of most effort is taken.

    Raises NotFoundError where none is of this kind, InvalidRequestError where several are and for a
    file that is no sound measurement, and what the Hub raises.
    """
    repository = hub.resolve(place.id, place.kind)
    return _read(hub, place, repository, _chosen(repository, place, wanted))


def find_key(hub: Hub, place: HubPlace, key: str) -> Measurement | None:
    """Return the measurement with this key where the repository has it."""
    repository = hub.resolve(place.id, place.kind)
    for file in repository.files:
        if FileName(file.name).says("key") == key[:16]:
            found = _read(hub, place, repository, file)
            return found if found.key == key else None
    return None


def _chosen(repository: HubModel, place: HubPlace, wanted: Mapping[str, str]) -> HubFile:
    named = {FileName(f.name): f for f in repository.files if FileName(f.name).says("key")}
    plain = [file for file in repository.files if file.name == _PLAIN]
    matching = [name for name in named if all(name.says(p) == w for p, w in wanted.items())]
    if not matching and not named and plain:
        return plain[0]
    if not matching:
        asked = ", ".join(f"{part} {value}" for part, value in wanted.items())
        raise NotFoundError(
            what=f"measurement ({asked or 'any'}) among {sorted(named)[:4]} of", name=str(place.id)
        )
    most = max(_EFFORTS.index(name.says("effort")) for name in matching)
    best = [name for name in matching if _EFFORTS.index(name.says("effort")) == most]
    if len(best) > 1:
        raise InvalidRequestError(
            where=place.repository,
            found=f"{len(best)} measurements: {', '.join(sorted(best))}"[:400],
            expected="one of these weights, made in one way",
            remedy="name the model, or state --encoder, --sensitivity or --rotation",
        )
    return named[best[0]]


def _read(hub: Hub, place: HubPlace, repository: HubModel, file: HubFile) -> Measurement:
    where = repository.describe(file.name)
    if file.nbytes > MAX_MEASUREMENT_BYTES:
        raise InvalidRequestError(
            where=where,
            found=f"{file.nbytes} bytes",
            expected=f"at most {MAX_MEASUREMENT_BYTES}",
            remedy="choose another repository: no model's measurement is so large",
        )
    data = hub.read(repository, file.name, 0, file.nbytes)
    check_digest(repository, file, data)
    found = read_file(data, where)
    return replace(found, origin=f"{place.repository}@{repository.commit}")


def publish_measurement(
    hub: Hub, measurement: Measurement, place: HubPlace, *, private: bool = True
) -> Published:
    """Upload a measurement, with a card where the repository has none, in one commit.

    Raises HubAccessError without a token that may write, HubUnavailableError when the Hub or the
    network fails.
    """
    name, kind, data = place.id.repository, place.kind, file_bytes(measurement)
    files = {FileName.of(measurement): data}
    ask(
        hub, name, lambda: hub.api.create_repo(name, repo_type=kind, private=private, exist_ok=True)
    )
    present = {file.name for file in hub.resolve(place.id, kind).files}
    if "README.md" not in present:
        files[FileName("README.md")] = _card(measurement, place).encode()
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    commit = ask(
        hub,
        name,
        lambda: hub.api.create_commit(
            name,
            operations,
            repo_type=kind,
            commit_message=f"Measurement of {measurement.model.name}"[:72],
            commit_description=f"SHA-256 {sha256_of(data)}, made by bitbudget.",
        ),
    )
    nbytes = sum(map(len, files.values()))
    return Published(place.repository, commit.oid, str(commit.commit_url), len(files), nbytes)


_CARD: Final = """---
tags:
- bitbudget
---

# What quantizing {name} costs

Rate-distortion curves of every module, measured by bitbudget: what each number format of each
module costs in KL divergence. With them the best mixed-precision quantization for any budget is
found in about a second, without running the model.

    bitbudget allocate {name} --measurement {place} --budget 5.5GiB -o manifest.json
    bitbudget run {name} --measurement {place} --budget 5.5GiB -o out

| | |
|---|---|
| model | {name}, revision {revision} |
| weights | SHA-256 {digest} |
| effort, encoder | {effort}, {encoder} |
| sensitivity, text | {sensitivity}, {text} |
| rotation | {rotation} |
| modules | {modules} |
| file | SHA-256 {sha256} |

It is used only for weights with that digest, and only after every number in it is checked.
"""


def _card(measurement: Measurement, place: HubPlace) -> str:
    return _CARD.format(
        name=measurement.model.name,
        place=place.repository,
        revision=measurement.model.revision,
        digest=measurement.model.digest,
        effort=measurement.effort.value,
        encoder=measurement.encoder.value,
        sensitivity=measurement.sensitivity.value,
        text=measurement.text,
        rotation=measurement.rotation,
        modules=len(measurement.curves),
        sha256=sha256_of(file_bytes(measurement)),
    )
