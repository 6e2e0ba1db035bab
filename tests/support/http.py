"""The application behind a test client, with a clock the test sets, and a worker for it."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.server.services import Services
from tests.support.reports import evaluation, job_result

__all__ = ["FakeClock", "FakeWorker", "Server", "bearer", "opened"]


@dataclass
class FakeClock:
    """Stands still until the test moves it."""

    now: datetime = field(default_factory=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=2)  # so that identifiers keep their order
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Server:
    """A running application."""

    http: TestClient
    services: Services
    clock: FakeClock

    def submit(self, **fields: Any) -> dict[str, Any]:
        body = {"model": "org/model", "budget": "1GiB", **fields}
        answer = self.http.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
        return job

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def kinds(self, job_id: str) -> list[str]:
        events, _ = self.services.jobs.events(job_id, 0)
        return [str(event.kind) for event in events]

    def worker(self, name: str = "machine", publishes_to: str = "") -> FakeWorker:
        body = {
            "name": name,
            "capabilities": {
                "chip": "test",
                "memory_bytes": 2**34,
                "backend": "cpu",
                "mlx_version": "0.32.4",
                "publishes_to": publishes_to,
            },
        }
        answer = self.http.post("/v1/workers", json=body)
        assert answer.status_code == 201, answer.text
        return FakeWorker(self, answer.json())


@dataclass
class FakeWorker:
    """Speaks the lease protocol and does as the test says."""

    server: Server
    welcome: dict[str, Any]
    lease: dict[str, Any] = field(default_factory=dict)

    def claim(self) -> dict[str, Any] | None:
        answer = self.server.http.post(
            "/v1/leases",
            json={"worker_id": self.welcome["worker_id"]},
            headers=bearer(self.welcome["token"]),
        )
        if answer.status_code == 204:
            assert int(answer.headers["Retry-After"]) >= 1
            return None
        assert answer.status_code == 201, answer.text
        self.lease = answer.json()
        return self.lease

    def renew(
        self, progress: dict[str, Any] | None = None, attempt: int | None = None, **more: Any
    ) -> Any:
        body = {"attempt": attempt or self.lease["attempt"], "progress": progress, **more}
        return self._put("", json=body)

    def upload(self, name: str, data: bytes, *, said: bytes | None = None) -> Any:
        digest = base64.b64encode(hashlib.sha256(said or data).digest()).decode()
        return self._put(
            f"/artifacts/{name}",
            content=data,
            params={"attempt": self.lease["attempt"]},
            extra={"Content-Digest": f"sha-256=:{digest}:"},
        )

    def finish(self, outcome: str, **fields: Any) -> Any:
        return self._put(
            "/result", json={"attempt": self.lease["attempt"], "outcome": outcome, **fields}
        )

    def do(self, measurement: Measurement) -> str:
        """Do the leased job from a measurement; return the manifest's digest."""
        fields = AllocationRequest.model_fields
        asked = {name: v for name, v in self.lease["request"].items() if name in fields}
        request = AllocationRequest.model_validate(asked)
        layout = plan_checkpoint(measurement.inventory)
        manifest = Manifest.build(measurement, layout, request, allocate(measurement, request))
        assert self.upload("measurement.json", measurement.to_json()).status_code == 200
        assert self.upload("manifest.json", manifest.to_bytes()).status_code == 200
        assert self.upload("evaluation.json", evaluation().to_json()).is_success
        result = job_result(manifest).model_dump(mode="json")
        assert self.finish("succeeded", result=result).status_code == 204
        return manifest.sha256

    def _put(self, path: str, extra: dict[str, str] | None = None, **options: Any) -> Any:
        return self.server.http.put(
            f"/v1/leases/{self.lease['lease_id']}{path}",
            headers={**bearer(self.lease["token"]), **(extra or {})},
            **options,
        )


def opened(app: FastAPI, base_url: str = "http://127.0.0.1", **options: Any) -> TestClient:
    """Return a client of the user in whose home the server is: it sends the token that is there."""
    services: Services = app.state.services
    return TestClient(
        app, base_url=base_url, headers=bearer(services.access.home_token.text()), **options
    )


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
