"""Load a real server: polling clients and event streams, and what-if allocations of an 8B model.

    python benchmarks/load.py [--clients 500] [--streams 50] [--seconds 20] [--json]

Server and clients share this machine, so the figures are a lower bound of what the server does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2
import psutil

from bitbudget.app.client.client import Client
from bitbudget.app.contract.home_token import HomeToken
from bitbudget.app.contract.leases import Capabilities, WorkerRegistration
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Architecture, Inventory, Module, ModuleKind
from bitbudget.app.core.measurement import (
    KEEP_POINT,
    Curve,
    CurvePoint,
    Encoder,
    Measurement,
    ModelIdentity,
    Sensitivity,
)
from bitbudget.app.core.requests import AllocationRequest, JobRequest

_PROGRAM: Final = (
    "from bitbudget.app.server.serve import serve; "
    "from bitbudget.app.server.settings import Settings; "
    "serve(Settings(), on_listening=lambda url: print(url, flush=True))"
)
_UNLOADED_REQUESTS: Final = 1000
_UNLOADED_PAUSE_SECONDS: Final = 0.02
_WHAT_IFS: Final = 60
_SHAPES_8B: Final = (
    ("self_attn.q_proj", (4096, 4096)),
    ("self_attn.k_proj", (1024, 4096)),
    ("self_attn.v_proj", (1024, 4096)),
    ("self_attn.o_proj", (4096, 4096)),
    ("mlp.gate_proj", (12288, 4096)),
    ("mlp.up_proj", (12288, 4096)),
    ("mlp.down_proj", (4096, 12288)),
)
_LAYERS_8B: Final = 36


@dataclass
class Outcome:
    """What was measured; times in milliseconds."""

    unloaded_median: float = 0.0
    unloaded_median_back_to_back: float = 0.0
    loaded_median: float = 0.0
    loaded_p99: float = 0.0
    p99_over_unloaded_median: float = 0.0
    requests: int = 0
    requests_per_second: float = 0.0
    server_cpu_milliseconds_per_request: float = 0.0
    errors: int = 0
    streams: int = 0
    stream_events: int = 0
    server_memory_before_mib: float = 0.0
    server_memory_after_mib: float = 0.0
    shutdown_seconds: float = 0.0
    what_if_p50: float = 0.0
    what_if_p95: float = 0.0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RunningServer:
    """A server process, its address and the token in its home."""

    url: str
    process: subprocess.Popen[str]
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """What requests of its user carry."""
        return {"Authorization": f"Bearer {self.token}"}


@contextmanager
def running_server(home: Path) -> Iterator[RunningServer]:
    """Start a server on a free port and stop it in the end."""
    root = str(Path(__file__).resolve().parents[1])
    environment = {
        **os.environ,
        "BITBUDGET_HOME": str(home),
        "BITBUDGET_PORT": "0",
        "BITBUDGET_LOG_LEVEL": "warning",
        "PYTHONPATH": root,
    }
    command = [sys.executable, "-c", _PROGRAM]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout
        if output is None:
            raise RuntimeError
        try:
            url = output.readline().strip()
            yield RunningServer(url, process, HomeToken(home).known())
        finally:
            if process.poll() is None:
                process.kill()


def model_8b() -> Measurement:
    """Gaussian-like curves of a model shaped like Qwen3-8B: 253 modules, 22 formats each."""
    shapes: list[tuple[str, tuple[int, int], int | None]] = [
        ("model.embed_tokens", (151_936, 4096), None)
    ]
    for layer in range(_LAYERS_8B):
        shapes += [(f"model.layers.{layer}.{name}", shape, layer) for name, shape in _SHAPES_8B]
    modules = tuple(_module(path, shape, layer) for path, shape, layer in shapes)
    architecture = Architecture("qwen3", 4096, 12288, 151_936, _LAYERS_8B, 32, 40_960)
    return Measurement(
        model=ModelIdentity("bench/8b", "main", "8" * 64),
        inventory=Inventory(architecture, modules, ()),
        encoder=Encoder.YAQA,
        sensitivity=Sensitivity.FISHER,
        curves=tuple(_curve(module) for module in modules),
        text="self",
    )


def _module(path: str, shape: tuple[int, int], layer: int | None) -> Module:
    kind = ModuleKind.LINEAR if layer is not None else ModuleKind.EMBEDDING
    return Module(path, kind, shape, Dtype.BF16, decision_group=path, layer=layer)


def _curve(module: Module) -> Curve:
    randomness = random.Random(module.path)  # noqa: S311 - repeatable numbers, not secrets
    alpha = randomness.lognormvariate(-1, 1)
    points = tuple(_point(format_, alpha, randomness) for format_ in module.legal_formats())
    return Curve(module.path, alpha, points)


def _point(format_: Format, alpha: float, randomness: random.Random) -> CurvePoint:
    if format_ == KEEP:
        return KEEP_POINT
    t2 = 1.5 * 4.0**-format_.bits * (1 + format_.group_size / 256) * randomness.uniform(0.9, 1.1)
    return CurvePoint(format_, t2=t2, kl_nats=alpha * t2)


def store_8b(client: Client) -> str:
    """Upload the 8B table as a worker does; return the measurement's id."""
    measurement = model_8b()
    client.submit(JobRequest(model="bench/8b", budget="5GiB"))
    capabilities = Capabilities(chip="load", memory_bytes=0, backend="cpu", mlx_version="none")
    worker = client.register(WorkerRegistration(name="load", capabilities=capabilities))
    lease = client.claim(worker)
    if lease is None:
        raise RuntimeError
    client.put_artifact(lease, "measurement.json", measurement.to_json())
    return measurement.key


def time_what_ifs(client: Client, measurement_id: str) -> list[float]:
    """Solve many budgets one after the other; return milliseconds each."""
    smallest = client.frontier(measurement_id).smallest_bytes
    found = []
    for number in range(_WHAT_IFS):
        budget = int(smallest * (1.02 + 2 * number / _WHAT_IFS))
        began = time.perf_counter()
        client.allocate(measurement_id, AllocationRequest(budget=budget))
        found.append((time.perf_counter() - began) * 1000)
    return found


def load(
    server: RunningServer, jobs: list[str], options: argparse.Namespace, outcome: Outcome
) -> None:
    """Let a process of clients measure polls without load, then with all clients and streams."""
    plan = {
        "host": "127.0.0.1",
        "port": int(server.url.rsplit(":", 1)[1]),
        "token": server.token,
        "paths": [f"/v1/jobs/{job}" for job in jobs],
        "alone": _UNLOADED_REQUESTS,
        "pause": _UNLOADED_PAUSE_SECONDS,
        "clients": options.clients,
        "streams": options.streams,
        "seconds": options.seconds,
        "interval": options.interval,
    }
    clients = Path(__file__).with_name("load_clients.py")
    ended = subprocess.run(
        [sys.executable, str(clients)],
        input=json.dumps(plan),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    summarize(json.loads(ended.stdout), outcome)


def summarize(samples: dict[str, Any], outcome: Outcome) -> None:
    """Put what the clients saw into the outcome."""
    times = sorted(samples["loaded"])
    outcome.unloaded_median = statistics.median(samples["alone"])
    outcome.unloaded_median_back_to_back = statistics.median(samples["at_once"])
    outcome.requests = len(times)
    outcome.requests_per_second = len(times) / samples["seconds"]
    outcome.errors = samples["errors"]
    outcome.streams = samples["streams"]
    outcome.stream_events = samples["stream_events"]
    outcome.loaded_median = statistics.median(times)
    outcome.loaded_p99 = times[int(0.99 * (len(times) - 1))]
    outcome.p99_over_unloaded_median = outcome.loaded_p99 / outcome.unloaded_median


def stop_with_open_stream(server: RunningServer, job: str) -> float:
    """Return the seconds from SIGTERM to the end, a stream being open."""
    url, headers = f"{server.url}/v1/jobs/{job}/events", server.headers
    with httpx2.Client(timeout=30) as http, http.stream("GET", url, headers=headers) as stream:
        next(stream.iter_lines())
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(30)
        return time.monotonic() - began


def measure(options: argparse.Namespace) -> Outcome:
    """Run everything against a fresh server."""
    outcome = Outcome(notes=[f"each client polls every {options.interval} s"])
    with tempfile.TemporaryDirectory() as home, running_server(Path(home)) as server:
        memory = psutil.Process(server.process.pid)
        with Client(server.url, token=server.token) as client:
            key = store_8b(client)
            times = time_what_ifs(client, key)
            outcome.what_if_p50 = statistics.median(times)
            outcome.what_if_p95 = sorted(times)[int(0.95 * (len(times) - 1))]
            jobs = [
                client.submit(JobRequest(model=f"bench/{n}", budget="1GiB")).id for n in range(50)
            ]
        outcome.server_memory_before_mib = memory.memory_info().rss / 2**20
        before = memory.cpu_times()
        load(server, jobs, options, outcome)
        after = memory.cpu_times()
        spent = after.user + after.system - before.user - before.system
        outcome.server_cpu_milliseconds_per_request = (
            spent / (outcome.requests + _UNLOADED_REQUESTS) * 1000
        )
        outcome.server_memory_after_mib = memory.memory_info().rss / 2**20
        outcome.shutdown_seconds = stop_with_open_stream(server, jobs[0])
    return outcome


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--interval", type=float, default=5.0, help="between polls of a client")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    outcome = asdict(measure(options))
    if options.json:
        print(json.dumps(outcome, indent=1))
        return
    for name, value in outcome.items():
        print(f"{name:28} {value:.2f}" if isinstance(value, float) else f"{name:28} {value}")


if __name__ == "__main__":
    main()
