"""Downloads that are resumed and verified, and shards that come and go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bitbudget.app.core.errors import (
    HubUnavailableError,
    InvalidModelError,
    InvalidRequestError,
    NotFoundError,
)
from bitbudget.app.core.hub_id import HubId
from bitbudget.workers.hub.client import Hub
from bitbudget.workers.hub.download import Downloader, model_folder
from bitbudget.workers.hub.headers import weight_files
from bitbudget.workers.hub.shards import ShardStore
from tests.workers.hub.hub_server import Fault, HubServer

NAME = "model.safetensors"
CONTENT = os.urandom(3_000_000)


def _downloader(server: HubServer, hub: Hub, folder: Path, content: bytes = CONTENT) -> Downloader:
    server.repository("org/name").put({NAME: content, "config.json": b'{"a": 1}'})
    return Downloader(hub, hub.resolve(HubId("org/name")), folder)


def test_files_of_both_kinds_arrive(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    downloader = _downloader(server, hub, tmp_path)
    assert downloader.fetch(NAME).read_bytes() == CONTENT
    assert downloader.fetch("config.json").read_bytes() == b'{"a": 1}'
    before = len(server.requests)
    downloader.fetch(NAME)
    assert len(server.requests) == before


def test_progress_counts_to_the_file_s_size(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    model = _downloader(server, hub, tmp_path).model
    Downloader(hub, model, tmp_path, lambda *now: seen.append(now)).fetch(NAME)
    assert seen == sorted(seen)
    assert seen[-1] == (NAME, len(CONTENT), len(CONTENT))


def test_a_dropped_connection_goes_on_where_it_stopped(
    server: HubServer, hub: Hub, tmp_path: Path
) -> None:
    downloader = _downloader(server, hub, tmp_path)
    server.faults.append(Fault("cdn GET", times=5, drop_after=400_000))
    assert downloader.fetch(NAME).read_bytes() == CONTENT
    sent = sum(request.sent for request in server.requests if request.origin == "cdn")
    assert sent == len(CONTENT)


def test_what_an_earlier_process_left_is_continued(
    server: HubServer, hub: Hub, tmp_path: Path
) -> None:
    downloader = _downloader(server, hub, tmp_path)
    (tmp_path / f".{NAME}.part").write_bytes(CONTENT[:2_999_000])
    assert downloader.fetch(NAME).read_bytes() == CONTENT
    assert [r.range for r in server.requests if r.origin == "cdn"] == ["bytes=2999000-"]


def test_a_spoilt_beginning_is_downloaded_again(
    server: HubServer, hub: Hub, tmp_path: Path
) -> None:
    downloader = _downloader(server, hub, tmp_path)
    (tmp_path / f".{NAME}.part").write_bytes(b"?" * 1000)
    assert downloader.fetch(NAME).read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_thrown_away(
    server: HubServer, hub: Hub, tmp_path: Path
) -> None:
    downloader = _downloader(server, hub, tmp_path)
    (tmp_path / f".{NAME}.part").write_bytes(CONTENT + b"more")
    assert downloader.fetch(NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("name", [NAME, "config.json"])
def test_wrong_content_never_appears_under_the_name(
    server: HubServer, hub: Hub, tmp_path: Path, name: str
) -> None:
    downloader = _downloader(server, hub, tmp_path)
    server.faults.append(Fault("GET", times=99, corrupt=True))
    with pytest.raises(InvalidModelError, match="digest"):
        downloader.fetch(name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("resize", [-5, 5])
def test_a_wrong_size_is_refused(server: HubServer, hub: Hub, tmp_path: Path, resize: int) -> None:
    downloader = _downloader(server, hub, tmp_path)
    server.faults.append(Fault("cdn GET", times=99, resize=resize))
    with pytest.raises(InvalidModelError, match="bytes on offer"):
        downloader.fetch(NAME)
    assert not (tmp_path / NAME).exists()


def test_a_hub_that_stays_away_leaves_the_part_for_later(
    server: HubServer, hub: Hub, tmp_path: Path
) -> None:
    downloader = _downloader(server, hub, tmp_path)
    server.faults.append(Fault("cdn GET", drop_after=1_048_576))
    server.faults.append(Fault("cdn GET", times=99, status=503))
    with pytest.raises(HubUnavailableError, match="finished parts are kept"):
        downloader.fetch(NAME)
    assert (tmp_path / f".{NAME}.part").stat().st_size == 1_048_576
    server.faults.clear()
    assert downloader.fetch(NAME).read_bytes() == CONTENT


def test_a_truncated_file_is_completed(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    downloader = _downloader(server, hub, tmp_path)
    (tmp_path / NAME).write_bytes(CONTENT[:10])
    assert downloader.fetch(NAME).read_bytes() == CONTENT


def test_a_file_the_commit_lacks_is_not_found(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"tokenizer\.json"):
        _downloader(server, hub, tmp_path).fetch("tokenizer.json")


def test_two_commits_do_not_share_a_folder(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    repository = server.repository("org/name")
    folders = set()
    for content in (b"{}", b"[]"):
        repository.add(config__json=content)
        folders.add(model_folder(tmp_path, hub.resolve(HubId("org/name"))))
    assert len(folders) == 2


def _shards(server: HubServer, hub: Hub, folder: Path, limit: int | None) -> ShardStore:
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    server.repository("org/name").put({name: os.urandom(1000 + i) for i, name in enumerate(names)})
    model = hub.resolve(HubId("org/name"))
    return ShardStore(Downloader(hub, model, folder), weight_files(model), limit)


def test_the_disk_never_holds_more_than_the_limit(
    server: HubServer, hub: Hub, tmp_path: Path
) -> None:
    store = _shards(server, hub, tmp_path, 2100)
    for index in (1, 2, 3, 1, 3):
        store.ensure(f"model-0000{index}-of-00003.safetensors")
        present = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
        assert present == store.bytes_on_disk <= 2100
    assert sorted(path.name[:11] for path in tmp_path.glob("*.safetensors")) == [
        "model-00001",
        "model-00003",
    ]


def test_a_held_shard_stays_and_too_many_held_are_an_error(
    server: HubServer, hub: Hub, tmp_path: Path
) -> None:
    store = _shards(server, hub, tmp_path, 2100)
    first, second, third = (f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3))
    with store.hold(first) as path:
        store.ensure(second)
        store.ensure(third)
        assert path.exists()
        with store.hold(third), pytest.raises(InvalidRequestError, match="disk-limit"):
            store.ensure(second)
    store.ensure(second)


def test_a_limit_below_the_largest_shard_is_refused_at_once(
    server: HubServer, hub: Hub, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequestError, match="1002"):
        _shards(server, hub, tmp_path, 1001)
    assert list(tmp_path.iterdir()) == []


def test_without_a_limit_all_stay(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    store = _shards(server, hub, tmp_path, None)
    for index in (1, 2, 3):
        store.ensure(f"model-0000{index}-of-00003.safetensors")
    assert store.bytes_on_disk == 3003
