"""What one model costs the server: rows, bytes, requests and CPU; and what 1,000 a day would.

    python -m benchmarks.capacity [--jobs 10] [--renewals 60] [--polls 60] [--json]

Each job is a model of its own, shaped like Qwen3-8B: a user submits it and polls, a worker claims,
renews its lease with progress, uploads measurement, manifest, evaluation and benchmark, and ends.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx2
import psutil

from benchmarks.load import RunningServer, model_8b, running_server
from bitbudget.app.client.client import Client
from bitbudget.app.contract.events import Progress
from bitbudget.app.contract.leases import (
    Capabilities,
    LeaseGrant,
    LeaseResult,
    WorkerRegistration,
    WorkerWelcome,
)
from bitbudget.app.contract.steps import Step
from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement, ModelIdentity
from bitbudget.app.core.requests import JobRequest
from tests.support.reports import benchmark, evaluation, job_result

_MODELS_PER_DAY: Final = 1000
_SECONDS_PER_DAY: Final = 86_400


def do_job(client: Client, worker: WorkerWelcome, number: int, options: argparse.Namespace) -> None:
    """One model from its submission to its end."""
    name = f"bench/model-{number}"
    model = replace(model_8b(), model=ModelIdentity(name, "main", f"{number:064x}"))
    job = client.submit(JobRequest(model=name, budget="5GiB"))
    lease = client.claim(worker)
    if lease is None:
        raise RuntimeError
    for step in range(max(options.renewals, options.polls)):
        if step < options.renewals:
            progress = Progress(step=Step.MEASURE, done=step, total=options.renewals)
            client.renew(lease, progress)
        if step < options.polls:
            client.job(job.id)
    upload(client, lease, model)
    client.manifest(job.id)
    client.report(job.id)


def upload(client: Client, lease: LeaseGrant, model: Measurement) -> None:
    """What a worker sends of a finished job."""
    layout = plan_checkpoint(model.inventory)
    manifest = Manifest.build(model, layout, lease.request, allocate(model, lease.request))
    client.put_artifact(lease, "measurement.json", model.to_json())
    client.put_artifact(lease, "manifest.json", manifest.to_bytes())
    client.put_artifact(lease, "evaluation.json", evaluation().to_json())
    client.put_artifact(lease, "benchmark.json", benchmark().to_json())
    result = job_result(manifest, checkpoint="/checkpoints/model")
    client.finish(lease, LeaseResult(attempt=lease.attempt, outcome="succeeded", result=result))


def rows_of(database: Path) -> dict[str, int]:
    """Return the rows of each table."""
    with sqlite3.connect(database) as connection:
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        names = [name for (name,) in found if not name.startswith(("sqlite_", "alembic"))]
        return {
            name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # noqa: S608 - a table's own name
            for name in names
        }


def database_bytes(database: Path) -> int:
    """Return the bytes in use, the log written back first."""
    with sqlite3.connect(database) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        return int(pages * connection.execute("PRAGMA page_size").fetchone()[0])


def requests_of(server: RunningServer) -> int:
    """Return how many requests the server says it has answered."""
    lines = httpx2.get(f"{server.url}/metrics", headers=server.headers).text.splitlines()
    counts = [line for line in lines if line.startswith("bitbudget_requests_total{")]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in counts))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Do the jobs on a fresh server and return what each took on average."""
    with tempfile.TemporaryDirectory() as home, running_server(Path(home)) as server:
        database = Path(home) / "bitbudget.db"
        with Client(server.url, token=server.token) as client:
            capabilities = Capabilities(
                chip="bench", memory_bytes=0, backend="cpu", mlx_version="none"
            )
            worker = client.register(WorkerRegistration(name="bench", capabilities=capabilities))
            do_job(client, worker, 0, options)
            before = snapshot(server, database, Path(home))
            for number in range(1, options.jobs + 1):
                do_job(client, worker, number, options)
            after = snapshot(server, database, Path(home))
    each = {name: (after[name] - before[name]) / options.jobs for name in before}
    each["cpu_milliseconds_per_request"] = 1000 * each["cpu_seconds"] / each["requests"]
    return each


def snapshot(server: RunningServer, database: Path, home: Path) -> dict[str, float]:
    """Return all counters now."""
    spent = psutil.Process(server.process.pid).cpu_times()
    blobs = [path for path in (home / "artifacts").rglob("*") if path.is_file()]
    rows = {f"rows of {name}": float(count) for name, count in rows_of(database).items()}
    return {
        **rows,
        "database_bytes": float(database_bytes(database)),
        "artifact_bytes": float(sum(path.stat().st_size for path in blobs)),
        "requests": float(requests_of(server)),
        "cpu_seconds": spent.user + spent.system,
    }


def main() -> None:
    """Print what a model costs, and a day of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--renewals", type=int, default=60, help="progress reports of a job")
    parser.add_argument("--polls", type=int, default=60, help="looks that its user takes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    each = measure(options)
    if options.json:
        print(json.dumps(each, indent=1))
        return
    print(f"{'':32} {'one model':>14} {f'{_MODELS_PER_DAY:,} a day':>18}")
    for name, value in each.items():
        if value:
            daily = "" if "per_request" in name else f"{value * _MODELS_PER_DAY:,.0f}"
            print(f"{name:32} {value:14,.2f} {daily:>18}")
    share = each["cpu_seconds"] * _MODELS_PER_DAY / _SECONDS_PER_DAY
    print(f"{'share of one core':32} {'':14} {share:17.1%}")


if __name__ == "__main__":
    main()
