"""Measurements in repositories of models and of data: uploaded, found by weights, read as data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from bitbudget.app.core.effort import Effort
from bitbudget.app.core.errors import HubUnavailableError, InvalidRequestError, NotFoundError
from bitbudget.app.core.hub_id import HubPlace
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.measurement_file import FileName, file_bytes
from bitbudget.retrying import RetryPolicy
from bitbudget.workers.hub.client import Hub
from bitbudget.workers.hub.measurements import fetch_measurement, find_key, publish_measurement
from tests.hostile.measurement_cases import MEASUREMENT
from tests.workers.hub.hub_server import Fault, HubServer

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning"  # huggingface_hub sends files that way
)
PLACES = ["me/model", "datasets/me/measurements"]


@pytest.fixture
def measurement() -> Measurement:
    found = Measurement.from_json(json.dumps(MEASUREMENT).encode())
    return Measurement.from_json(file_bytes(found))


@pytest.fixture
def writer(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    return Hub(server.endpoint, "hf_writer", RetryPolicy(attempts=2, first_wait_seconds=0.01))


@pytest.mark.parametrize("name", PLACES)
def test_what_is_uploaded_is_found_by_its_weights(
    server: HubServer, writer: Hub, measurement: Measurement, name: str
) -> None:
    place = HubPlace.parse(name)
    quick = replace(measurement, effort=Effort.QUICK)
    publish_measurement(writer, quick, place)
    done = publish_measurement(writer, measurement, place)
    wanted = {"model": measurement.model.digest[:16]}
    found = fetch_measurement(writer, place, wanted)
    assert found.origin == f"{name}@{done.revision}"
    assert replace(found, origin="") == measurement
    assert fetch_measurement(writer, place, {"effort": "quick"}).effort is Effort.QUICK
    assert find_key(writer, place, measurement.key) == found
    assert find_key(writer, place, "0" * 64) is None
    files = server.repositories[name].commits[done.revision]
    assert files[FileName.of(measurement)].content == file_bytes(measurement)
    assert measurement.model.digest in files["README.md"].content.decode()


def test_the_card_of_a_model_stays(
    server: HubServer, writer: Hub, measurement: Measurement
) -> None:
    server.repository("me/model", token="hf_writer").add(README__md=b"theirs")
    done = publish_measurement(writer, measurement, HubPlace.parse("me/model"))
    assert server.repositories["me/model"].commits[done.revision]["README.md"].content == b"theirs"


def test_weights_of_another_model_are_not_found(writer: Hub, measurement: Measurement) -> None:
    place = HubPlace.parse("me/model")
    publish_measurement(writer, measurement, place)
    with pytest.raises(NotFoundError, match="model 1111"):
        fetch_measurement(writer, place, {"model": "1" * 16})


def test_several_ways_of_measuring_must_be_told_apart(
    writer: Hub, measurement: Measurement
) -> None:
    place = HubPlace.parse("me/model")
    publish_measurement(writer, measurement, place)
    publish_measurement(writer, replace(measurement, rotation="folded"), place)
    with pytest.raises(InvalidRequestError, match="--rotation"):
        fetch_measurement(writer, place, {})
    assert fetch_measurement(writer, place, {"rotation": "folded"}).rotation == "folded"


def test_a_tampered_file_is_refused(server: HubServer, hub: Hub, measurement: Measurement) -> None:
    data = file_bytes(measurement).replace(b'"alpha_nats":1.0', b'"alpha_nats":-1.0')
    server.repository("me/model").put({FileName.of(measurement): data})
    with pytest.raises(InvalidRequestError, match="alpha_nats"):
        fetch_measurement(hub, HubPlace.parse("me/model"), {})


def test_a_file_of_another_key_than_its_name_says_is_not_taken(
    server: HubServer, hub: Hub, measurement: Measurement
) -> None:
    other = replace(measurement, rotation="folded")
    server.repository("me/model").put({FileName.of(measurement): file_bytes(other)})
    assert find_key(hub, HubPlace.parse("me/model"), measurement.key) is None


def test_an_oversized_file_is_refused_unread(
    server: HubServer, hub: Hub, measurement: Measurement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitbudget.workers.hub.measurements.MAX_MEASUREMENT_BYTES", 100)
    server.repository("me/model").put({"measurement.json": file_bytes(measurement)})
    with pytest.raises(InvalidRequestError, match="at most 100"):
        fetch_measurement(hub, HubPlace.parse("me/model"), {})
    assert not any("resolve" in request.target for request in server.requests)


def test_bytes_that_changed_on_the_way_are_refused(
    server: HubServer, hub: Hub, measurement: Measurement
) -> None:
    server.repository("me/model").put({"measurement.json": file_bytes(measurement)})
    server.faults.append(Fault("resolve", times=9, corrupt=True))
    with pytest.raises(ValueError, match="digest"):
        fetch_measurement(hub, HubPlace.parse("me/model"), {})


def test_an_absent_hub_is_told(tmp_path: Path) -> None:
    away = Hub("http://127.0.0.1:9", retries=RetryPolicy(attempts=1, first_wait_seconds=0.01))
    with pytest.raises(HubUnavailableError):
        fetch_measurement(away, HubPlace.parse("me/model"), {})
    assert not list(tmp_path.iterdir())
