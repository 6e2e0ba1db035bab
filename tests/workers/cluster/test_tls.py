"""A real scheduler and workers in processes of their own, mutual TLS, and one of them killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.cluster.tensors import measure_on_cluster
from bitbudget.workers.streaming import MeasuredTensor, Measuring, TensorTask, measure_tensors
from tests.workers.streaming.conftest import random_weight, task_of, write_safetensors

dask: Any = pytest.importorskip("dask")
distributed: Any = pytest.importorskip("distributed")
trustme: Any = pytest.importorskip("trustme")

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS = 60.0


@dataclass(frozen=True)
class Certificates:
    """An authority's certificate, and a certificate and key that it signed."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def made(cls, folder: Path) -> Certificates:
        folder.mkdir(parents=True)
        authority = trustme.CA()
        signed = authority.issue_cert("127.0.0.1", "localhost")
        found = cls(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
        authority.cert_pem.write_to_path(str(found.authority))
        for part in signed.cert_chain_pems:
            part.write_to_path(str(found.certificate), append=True)
        signed.private_key_pem.write_to_path(str(found.key))
        return found

    def arguments(self) -> list[str]:
        names = ("--tls-ca-file", "--tls-cert", "--tls-key")
        paths = (self.authority, self.certificate, self.key)
        return [text for pair in zip(names, map(str, paths), strict=True) for text in pair]

    def settings(self) -> dict[str, str]:
        """Return what dask's configuration calls them."""
        tls = "distributed.comm.tls"
        return {
            f"{tls}.ca-file": str(self.authority),
            f"{tls}.client.cert": str(self.certificate),
            f"{tls}.client.key": str(self.key),
        }

    def environment(self) -> dict[str, str]:
        return {
            "DASK_" + key.replace(".", "__").replace("-", "_").upper(): value
            for key, value in self.settings().items()
        }


@dataclass(frozen=True)
class Cluster:
    address: str
    certificates: Certificates
    workers: list[subprocess.Popen[bytes]]


@contextmanager
def process(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    with (
        log.open("wb") as file,
        subprocess.Popen(
            [sys.executable, "-m", *arguments], env=environment, stdout=file, stderr=file
        ) as running,
    ):
        try:
            yield running
        finally:
            running.kill()


def scheduler_address(file: Path, log: Path) -> str:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            return str(json.loads(file.read_bytes())["address"])
        except (OSError, ValueError):
            time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    tmp_path = tmp_path_factory.mktemp("cluster")
    certificates = Certificates.made(tmp_path / "tls")
    place, tls = tmp_path / "scheduler.json", certificates.arguments()
    quiet = ("--dashboard-address", "127.0.0.1:0", "--protocol", "tls", "--host", "127.0.0.1")
    module = "distributed.cli.dask_scheduler"
    name = (module, "--port", "0", "--scheduler-file", str(place))
    with process(*name, *quiet, *tls, log=tmp_path / "scheduler.log"):
        address = scheduler_address(place, tmp_path / "scheduler.log")
        assert address.startswith("tls://")
        worker = ("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny")
        options = (*quiet, *tls, "--local-directory", str(tmp_path / "space"))
        with (
            process(*worker, *options, log=tmp_path / "a.log") as first,
            process(*worker, *options, log=tmp_path / "b.log") as second,
            dask.config.set(certificates.settings()),
        ):
            with distributed.Client(address, set_as_default=False) as client:
                client.wait_for_workers(2, timeout=START_SECONDS)
            yield Cluster(address, certificates, [first, second])


@pytest.fixture
def tasks(tmp_path: Path) -> list[TensorTask]:
    weights = {f"t{i}": (Dtype.BF16, random_weight((256, 1024), seed=i)) for i in range(16)}
    tensors = write_safetensors(tmp_path / "model.safetensors", weights)
    return [task_of(tensor.name, tensor) for tensor in tensors]


def numbers(results: Iterator[MeasuredTensor]) -> dict[str, tuple[Any, str]]:
    return {result.path: (result.errors, result.digest) for result in results}


@pytest.mark.chaos
def test_the_command_measures_on_the_cluster(
    tmp_path: Path, cluster: Cluster, sample_model: Path
) -> None:
    documents = []
    for place in (["--cluster", cluster.address], []):
        home = {"BITBUDGET_HOME": str(tmp_path / f"home{len(place)}")}
        environment = {**os.environ, **home, **cluster.certificates.environment()}
        arguments = [
            "-m",
            "bitbudget.app.cli",
            "measure",
            str(sample_model),
            "--sensitivity",
            "weights",
        ]
        done = subprocess.run(
            [sys.executable, *arguments, *place, "--json"],
            env={**environment, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        documents.append(Path(json.loads(done.stdout)["measurement"]).read_bytes())
    assert documents[0] == documents[1]


@pytest.mark.chaos
def test_a_stranger_is_not_let_in(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitbudget.workers.cluster.batches.CONNECT_SECONDS", 2.0)
    stranger = Certificates.made(tmp_path / "stranger").settings()
    trusted = str(cluster.certificates.authority)
    settings = {**stranger, "distributed.comm.tls.ca-file": trusted}
    with (
        dask.config.set(settings),
        pytest.raises(InvalidRequestError, match="check the address, the certificates"),
    ):
        list(measure_on_cluster(cluster.address, [], Measuring(tmp_path, Encoder.CAREFUL)))


@pytest.mark.chaos
def test_a_killed_worker_changes_no_number(
    tmp_path: Path, tasks: list[TensorTask], cluster: Cluster
) -> None:
    how = Measuring(tmp_path, Encoder.CAREFUL)
    results = measure_on_cluster(cluster.address, tasks, how)
    found = [next(results)]
    cluster.workers[0].kill()
    found.extend(results)
    assert numbers(iter(found)) == numbers(measure_tensors(tasks, how))
    assert cluster.workers[1].poll() is None
