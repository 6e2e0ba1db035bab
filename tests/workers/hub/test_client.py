"""Resolving revisions and reading ranges, from a server that speaks the Hub's API."""

from __future__ import annotations

import time
from pathlib import Path

import huggingface_hub
import pytest

from bitbudget.app.core.errors import (
    HubAccessError,
    HubUnavailableError,
    InvalidModelError,
    NotFoundError,
)
from bitbudget.app.core.hub_id import HubId
from bitbudget.retrying import RetryPolicy
from bitbudget.workers.hub.client import Hub
from tests.workers.hub.hub_server import Fault, HubServer

ID = HubId("org/name")


def test_the_test_server_is_one_that_huggingface_hub_downloads_from(
    server: HubServer, sample_model: Path, tmp_path: Path
) -> None:
    commit = server.repository("org/name").put_folder(sample_model)
    folder = huggingface_hub.snapshot_download(
        "org/name", endpoint=server.endpoint, cache_dir=tmp_path
    )
    assert Path(folder).name == commit
    for path in sample_model.iterdir():
        assert (Path(folder) / path.name).read_bytes() == path.read_bytes()


def test_a_branch_becomes_its_commit_and_stays_there(server: HubServer, hub: Hub) -> None:
    repository = server.repository("org/name")
    first = repository.add(config__json=b"{}")
    model = hub.resolve(ID)
    second = repository.add(config__json=b'{"later": 1}')
    assert model.commit == first
    assert hub.read(model, "config.json", 0, 99) == b"{}"
    assert hub.resolve(HubId("org/name", "main")).commit == second
    assert hub.resolve(HubId("org/name", first)).commit == first


def test_files_below_the_top_level_and_odd_names_are_left_out(server: HubServer, hub: Hub) -> None:
    names = ["config.json", "onnx/model.safetensors", "../up.json", "a b.json", ".hidden"]
    server.repository("org/name").put(dict.fromkeys(names, b"{}"))
    assert [file.name for file in hub.resolve(ID).files] == ["config.json"]


@pytest.mark.parametrize("ignore_range", [False, True])
def test_a_range_is_exact_also_where_ranges_are_ignored(
    server: HubServer, hub: Hub, *, ignore_range: bool
) -> None:
    content = bytes(range(256)) * 10_000
    server.repository("org/name").put({"model.safetensors": content})
    model = hub.resolve(ID)
    server.faults.append(Fault("cdn GET", times=9, ignore_range=ignore_range))
    assert hub.read(model, "model.safetensors", 1000, 70_000) == content[1000:70_000]
    assert hub.read(model, "model.safetensors", len(content) - 5, 10**9) == content[-5:]


def test_the_token_goes_to_the_hub_and_not_to_the_host_of_the_files(server: HubServer) -> None:
    server.repository("org/name", token="hf_secret").put({"model.safetensors": b"x" * 100})
    hub = Hub(endpoint=server.endpoint, token="hf_secret")
    hub.read(hub.resolve(ID), "model.safetensors", 0, 10)
    seen = {request.origin: request.authorization for request in server.requests}
    assert seen == {"hub": "Bearer hf_secret", "cdn": None}


@pytest.mark.parametrize(
    ("status", "headers", "error", "words"),
    [
        (401, {}, HubAccessError, "HF_TOKEN"),
        (
            401,
            {"X-Error-Message": "Invalid credentials in Authorization header"},
            HubAccessError,
            "401",
        ),
        (403, {}, HubAccessError, "HTTP 403"),
        (403, {"X-Error-Code": "GatedRepo"}, HubAccessError, "gated"),
        (404, {"X-Error-Code": "RepoNotFound"}, NotFoundError, "org/name"),
        (404, {"X-Error-Code": "RevisionNotFound"}, NotFoundError, "org/name"),
        (404, {}, NotFoundError, "org/name"),
        (429, {"Retry-After": "3600"}, HubUnavailableError, "in 3600 seconds"),
        (429, {}, HubUnavailableError, "too many requests"),
        (500, {}, HubUnavailableError, "HTTP 500"),
        (503, {}, HubUnavailableError, "HTTP 503"),
        (418, {}, HubUnavailableError, "HTTP 418"),
    ],
)
def test_each_refusal_is_a_clear_error(
    server: HubServer,
    hub: Hub,
    *,
    status: int,
    headers: dict[str, str],
    error: type[Exception],
    words: str,
) -> None:
    server.repository("org/name").add(config__json=b"{}")
    server.faults.append(Fault("hub GET /api", times=99, status=status, headers=headers))
    with pytest.raises(error, match=words):
        hub.resolve(ID)


def test_a_retry_after_within_patience_is_waited_for(server: HubServer, hub: Hub) -> None:
    server.repository("org/name").add(config__json=b"{}")
    server.faults.append(Fault("hub GET /api", status=429, headers={"Retry-After": "1"}))
    started = time.monotonic()
    hub.resolve(ID)
    assert time.monotonic() - started >= 1


def test_a_longer_retry_after_ends_at_once_and_says_how_long(server: HubServer, hub: Hub) -> None:
    server.repository("org/name").add(config__json=b"{}")
    server.faults.append(Fault("hub GET /api", times=9, status=429, headers={"Retry-After": "60"}))
    with pytest.raises(HubUnavailableError) as caught:
        hub.resolve(ID)
    assert caught.value.retry_after_seconds == 60
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", [Fault("api", status=502), Fault("api", drop_after=3)])
def test_a_passing_failure_is_not_noticed(server: HubServer, hub: Hub, fault: Fault) -> None:
    commit = server.repository("org/name").add(config__json=b"{}")
    server.faults.append(fault)
    assert hub.resolve(ID).commit == commit


def test_no_server_is_a_clear_error() -> None:
    hub = Hub("http://127.0.0.1:9", retries=RetryPolicy(attempts=2, first_wait_seconds=0.01))
    with pytest.raises(HubUnavailableError, match="HF_ENDPOINT"):
        hub.resolve(ID)


def test_an_answer_that_is_no_model_information_is_a_clear_error(
    server: HubServer, hub: Hub
) -> None:
    server.faults.append(Fault("api", times=9, status=200))
    with pytest.raises(InvalidModelError, match="names a Hub"):
        hub.resolve(ID)


def test_another_size_than_the_listed_one_is_refused(server: HubServer, hub: Hub) -> None:
    server.repository("org/name").put({"model.safetensors": b"x" * 100})
    model = hub.resolve(ID)
    server.faults.append(Fault("cdn GET", times=9, resize=7))
    with pytest.raises(InvalidModelError, match="107 bytes on offer"):
        hub.read(model, "model.safetensors", 0, 10)
