from __future__ import annotations

import os
import pickle
import signal
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidModelError, InvalidRequestError
from bitbudget.app.core.formats import KEEP
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.cluster.tensors import fan_out, measure_on_cluster, measure_on_processes
from bitbudget.workers.files.headers import TensorRef
from bitbudget.workers.streaming import (
    MeasuredTensor,
    Measuring,
    Progress,
    TensorTask,
    measure_tensors,
)
from bitbudget.workers.streaming.files import ReadError
from tests.workers.streaming.conftest import random_weight, task_of, write_safetensors

distributed: Any = pytest.importorskip("distributed")


@pytest.fixture
def tasks(tmp_path: Path) -> list[TensorTask]:
    weights = {
        f"t{i}": (Dtype.BF16, random_weight((64 * (1 + i % 3), 256), seed=i)) for i in range(9)
    }
    tensors = write_safetensors(tmp_path / "model.safetensors", weights)
    return [task_of(tensor.name, tensor) for tensor in tensors]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    # Any free port: without an address, the scheduler's pages want port 8787, as another one's may.
    pages = "127.0.0.1:0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=pages
        ) as running:
            yield running


def numbers(results: Iterator[MeasuredTensor]) -> dict[str, tuple[Any, str]]:
    return {result.path: (result.errors, result.digest) for result in results}


def test_processes_give_the_serial_numbers(tmp_path: Path, tasks: list[TensorTask]) -> None:
    how = Measuring(tmp_path, Encoder.CAREFUL)
    serial = numbers(measure_tensors(tasks, how, threads=1))
    assert numbers(measure_on_processes(tasks, how, processes=2)) == serial


def test_a_cluster_gives_the_serial_numbers(
    tmp_path: Path, tasks: list[TensorTask], cluster: Any
) -> None:
    how = Measuring(tmp_path, Encoder.CAREFUL, cache=tmp_path / "sweep.sqlite3")
    seen: list[Progress] = []
    address = cluster.scheduler_address
    spread = numbers(measure_on_cluster(address, tasks, how, progress=seen.append))
    assert spread == numbers(measure_tensors(tasks, Measuring(tmp_path, Encoder.CAREFUL)))
    assert seen[-1].done_bytes == seen[-1].total_bytes == sum(task.nbytes for task in tasks)
    again = list(measure_on_cluster(address, tasks, how))
    assert all(result.from_cache for result in again)
    assert numbers(iter(again)) == spread


@pytest.mark.chaos
def test_a_lost_worker_costs_nothing_but_time(
    tmp_path: Path, tasks: list[TensorTask], cluster: Any
) -> None:
    how = Measuring(tmp_path, Encoder.CAREFUL)
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        victim = next(iter(client.run(os.getpid).values()))
    results = measure_on_cluster(cluster.scheduler_address, tasks, how)
    found = [next(results)]
    os.kill(victim, signal.SIGKILL)
    found.extend(results)
    assert numbers(iter(found)) == numbers(measure_tensors(tasks, how))


def test_broken_weights_end_the_run_with_their_module(tmp_path: Path, cluster: Any) -> None:
    weight = random_weight((64, 256))
    weight[0, 0] = 0x7F80
    (tensor,) = write_safetensors(tmp_path / "a", {"w": (Dtype.BF16, weight)})
    how = Measuring(tmp_path, Encoder.CAREFUL)
    with pytest.raises(InvalidModelError, match="w: found 0 NaN and 1 infinite"):
        list(measure_on_cluster(cluster.scheduler_address, [task_of("w", tensor)], how))


def test_a_failing_disk_is_given_up_after_some_attempts(tmp_path: Path) -> None:
    tensor = TensorRef("absent.safetensors", "w", Dtype.BF16, (2, 64), 0, 256)
    task = TensorTask("w", (tensor,), Dtype.BF16, (KEEP,))
    how = Measuring(tmp_path, Encoder.CAREFUL)
    with pytest.raises(ReadError, match=r"absent\.safetensors"):
        list(fan_out(ThreadPoolExecutor(1), 1, [task], how))


def test_an_absent_scheduler_is_a_wrong_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitbudget.workers.cluster.batches.CONNECT_SECONDS", 0.2)
    with pytest.raises(InvalidRequestError, match="found no answer"):
        list(measure_on_cluster("tcp://127.0.0.1:9", [], Measuring(tmp_path, Encoder.CAREFUL)))


def test_workers_in_another_folder_find_a_relative_one(
    tmp_path: Path, tasks: list[TensorTask], cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    how = Measuring(Path(), Encoder.CAREFUL)
    spread = numbers(measure_on_cluster(cluster.scheduler_address, tasks, how))
    assert spread == numbers(measure_tensors(tasks, how))


def test_a_folder_that_a_worker_does_not_see_is_named(
    tmp_path: Path, tasks: list[TensorTask], cluster: Any
) -> None:
    absent = Measuring(tmp_path / "elsewhere", Encoder.CAREFUL)
    with pytest.raises(InvalidRequestError, match=r"found nothing at .*/elsewhere, expected"):
        list(measure_on_cluster(cluster.scheduler_address, tasks, absent))


def test_errors_travel_between_processes() -> None:
    error = ReadError(file="a", nbytes=1, offset=2, reason="broken")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made one line above
    assert (str(copy), copy.fields, type(copy)) == (str(error), error.fields, ReadError)
