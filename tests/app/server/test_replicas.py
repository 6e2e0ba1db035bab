from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from bitbudget.app.client.client import Client
from bitbudget.app.contract.leases import (
    Capabilities,
    LeaseGrant,
    LeaseOutcome,
    LeaseResult,
    WorkerRegistration,
)
from bitbudget.app.core.errors import LostLeaseError
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import JobRequest
from bitbudget.app.jobs.status import JobStatus
from bitbudget.app.measurements.solving import solve
from tests.support.live import LiveServer, live_server
from tests.support.postgres import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.postgres]
JOBS = 12


def work(server: LiveServer, measurement: Measurement) -> list[str]:
    """Claim and finish jobs until there is none."""
    capabilities = Capabilities(chip="x", memory_bytes=0, backend="cpu", mlx_version="1")
    done: list[str] = []
    with Client(server.url, token=server.token) as client:
        worker = client.register(WorkerRegistration(name=server.url, capabilities=capabilities))
        while (lease := client.claim(worker)) is not None:
            finish(client, lease, measurement)
            done.append(lease.job_id)
    return done


def finish(client: Client, lease: LeaseGrant, measurement: Measurement) -> None:
    model = replace(measurement.model, name=lease.request.model)
    measurement = replace(measurement, model=model)
    client.renew(lease)
    client.put_artifact(lease, "measurement.json", measurement.to_json())
    client.put_artifact(lease, "manifest.json", solve(measurement, lease.request).data)
    client.finish(lease, LeaseResult(attempt=lease.attempt, outcome=LeaseOutcome.SUCCEEDED))


def test_replicas_and_workers_share_one_database(
    postgres_cluster: Cluster, tmp_path: Path, measurement: Measurement
) -> None:
    postgres_cluster.empty("migrated")
    shared = {
        "database_url": postgres_cluster.url("migrated"),
        "artifact_url": str(tmp_path / "artifacts"),
        "lease_seconds": "10",
        "sweep_seconds": "0.5",
    }
    with (
        live_server(tmp_path / "one", **shared) as one,
        live_server(tmp_path / "two", **shared) as two,
        Client(one.url, token=one.token) as first,
        Client(two.url, token=two.token) as second,
    ):
        jobs = [
            client.submit(JobRequest(model=f"org/{number}", budget="1GiB"))
            for number in range(JOBS // 2)
            for client in (first, second)
        ]
        key = "the same on both"
        repeated = JobRequest(model="org/0", budget="1GiB")
        made = {c.submit(repeated, idempotency_key=key).id for c in (first, second)}
        assert len(made) == 1
        capabilities = Capabilities(chip="x", memory_bytes=0, backend="cpu", mlx_version="1")
        lost = first.claim(first.register(WorkerRegistration(name="x", capabilities=capabilities)))
        assert lost is not None
        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(lambda one: work(one, measurement), [one, two] * 2))
        done = [job_id for part in parts for job_id in part]
        assert len(done) == len(set(done)) >= JOBS
        kinds = [event.kind for event in second.events(done[0])]
        assert kinds[-1] == "succeeded"
        requeued = next(e for e in second.events(lost.job_id) if e.kind == "requeued")
        assert requeued.data["attempt"] == 1
        with pytest.raises(LostLeaseError):
            second.renew(lost)
        work(two, measurement)
        assert {job.id for job in first.jobs(status=JobStatus.SUCCEEDED)} >= {j.id for j in jobs}
