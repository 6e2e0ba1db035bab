"""The server's interface as typed Python calls: for users, the command line and the worker.

    with Client("http://127.0.0.1:8765") as client:
        job = client.submit(JobRequest(model="org/name", budget="5.5GiB"))
        for event in client.events(job.id):
            ...
        manifest = client.manifest(job.id)

A problem the server answers is raised as the error it stands for. Calls that can be repeated
without harm are repeated while the server cannot be reached.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

import httpx2
from pydantic import BaseModel, TypeAdapter

from bitbudget.app.client.events import read_events
from bitbudget.app.client.transport import Transport
from bitbudget.app.contract.events import Progress
from bitbudget.app.contract.followups import (
    CompareText,
    FollowupClaim,
    FollowupEnd,
    FollowupGrant,
    FollowupRenewal,
    Publish,
)
from bitbudget.app.contract.leases import (
    LeaseClaim,
    LeaseGrant,
    LeaseRenewal,
    LeaseResult,
    LeaseStatus,
    LogLine,
    WorkerRegistration,
    WorkerWelcome,
)
from bitbudget.app.core.canonical import JsonObject, sha256_of
from bitbudget.app.core.requests import AllocationRequest, JobRequest
from bitbudget.app.fit.schemas import Device, Fit, FitRequest
from bitbudget.app.followups.schemas import Followup
from bitbudget.app.http.pages import Page
from bitbudget.app.jobs.labels import NO_LABELS, JobLabels, LabelChange
from bitbudget.app.jobs.schemas import Job, JobEvent, JobReport
from bitbudget.app.jobs.status import JobStatus
from bitbudget.app.measurements.schemas import (
    AllocationAnswer,
    Frontier,
    Guide,
    Measurement,
    Tensor,
)
from bitbudget.app.models.schemas import Model
from bitbudget.app.workers.schemas import Worker

__all__ = ["Client"]

_Grant = TypeVar("_Grant", bound=BaseModel)


class Client:
    """A connection to a server; `token` is an API key.

    To a server on loopback the token in BITBUDGET_HOME is sent where none is given.

    `told` is told in words when the server does not answer and is asked again.
    """

    def __init__(
        self,
        server: str,
        *,
        token: str | None = None,
        timeout_seconds: float = 30.0,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._http = Transport(server, token=token, timeout_seconds=timeout_seconds, told=told)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(
        self,
        request: JobRequest,
        *,
        labels: JobLabels = NO_LABELS,
        idempotency_key: str | None = None,
    ) -> Job:
        """Queue a job, or get it solved at once when the model has been measured before."""
        key = idempotency_key or secrets.token_hex(16)
        answer = self._http.request(
            "POST",
            "/v1/jobs",
            json={
                **request.model_dump(mode="json", exclude_none=True),
                **labels.model_dump(mode="json", exclude_defaults=True),
            },
            headers={"Idempotency-Key": key},
            repeatable=True,
        )
        return Job.model_validate_json(answer.content)

    def import_measurement(self, data: bytes, origin: str = "") -> Measurement:
        """Give the server a measurement made elsewhere, as `bitbudget measurement export` wrote it.

        A job names it by its id: `JobRequest(measurement=found.id)`. `origin` is where on the Hub
        it was taken from, `[datasets/]org/name@commit`.
        """
        answer = self._http.request(
            "POST",
            "/v1/measurements",
            params={"origin": origin} if origin else {},
            content=data,
            headers={"Content-Type": "application/octet-stream"},
            repeatable=True,
        )
        return Measurement.model_validate_json(answer.content)

    def job(self, job_id: str) -> Job:
        """Return a job as it is now."""
        return Job.model_validate_json(self._get(f"/v1/jobs/{job_id}").content)

    def jobs(self, *, status: JobStatus | None = None, tag: str | None = None) -> Iterator[Job]:
        """Give every job in a state and with a tag, newest first."""
        for item in self._items("/v1/jobs", {"status": status, "tag": tag}):
            yield Job.model_validate(item)

    def label(self, job_id: str, change: LabelChange) -> Job:
        """Change the tags or the note of a job."""
        body = change.model_dump(mode="json", exclude_none=True)
        answer = self._http.request("PATCH", f"/v1/jobs/{job_id}", json=body, repeatable=True)
        return Job.model_validate_json(answer.content)

    def cancel(self, job_id: str) -> Job:
        """Ask for a job to be stopped; asking twice is asking once."""
        answer = self._http.request("POST", f"/v1/jobs/{job_id}/cancel", repeatable=True)
        return Job.model_validate_json(answer.content)

    def events(
        self, job_id: str, *, after: int = 0, told: Callable[[str], None] = lambda _: None
    ) -> Iterator[JobEvent]:
        """Give the events of a job as they happen, until it ends; reconnects where it stopped.

        `told` is told in words when the server stops answering.
        """
        return read_events(self._http, f"/v1/jobs/{job_id}/events", after, told)

    def manifest(self, job_id: str, revision: int | None = None) -> bytes:
        """Return the exact bytes of a job's manifest, checked against their digest.

        Of an earlier answer with its `revision`.
        """
        query = "" if revision is None else f"?revision={revision}"
        answer = self._get(f"/v1/jobs/{job_id}/manifest{query}")
        expected = answer.headers["ETag"].strip('"')
        found = sha256_of(answer.content)
        if found != expected:
            raise httpx2.RemoteProtocolError(f"manifest has SHA-256 {found}, not {expected}")
        return answer.content

    def report(self, job_id: str) -> JobReport:
        """Return what is known of a job's outcome."""
        return JobReport.model_validate_json(self._get(f"/v1/jobs/{job_id}/report").content)

    def ask_followup(self, job_id: str, asked: CompareText | Publish) -> Followup:
        """Ask the worker that holds a job's checkpoint to try or to publish it."""
        path, body = f"/v1/jobs/{job_id}/followups", asked.model_dump(mode="json")
        return Followup.model_validate_json(self._http.request("POST", path, json=body).content)

    def followups(self, job_id: str) -> list[Followup]:
        """Return the newest follow-up of each kind."""
        answer = self._get(f"/v1/jobs/{job_id}/followups")
        return TypeAdapter(list[Followup]).validate_json(answer.content)

    def models(self) -> Iterator[Model]:
        """Give every model the server knows, newest first."""
        for item in self._items("/v1/models", {}):
            yield Model.model_validate(item)

    def measurement(self, measurement_id: str) -> Measurement:
        """Return the head of a measurement."""
        return Measurement.model_validate_json(
            self._get(f"/v1/measurements/{measurement_id}").content
        )

    def tensors(self, measurement_id: str) -> Iterator[Tensor]:
        """Give every tensor of a measurement, in the order of the checkpoint."""
        for item in self._items(f"/v1/measurements/{measurement_id}/tensors", {}):
            yield Tensor.model_validate(item)

    def guide(self, measurement_id: str, context: int) -> Guide:
        """Return the best checkpoint for every device at `context` tokens."""
        answer = self._get(f"/v1/measurements/{measurement_id}/guide?context={context}")
        return Guide.model_validate_json(answer.content)

    def frontier(self, measurement_id: str) -> Frontier:
        """Return the whole trade of bytes against KL of a measured model."""
        answer = self._get(f"/v1/measurements/{measurement_id}/frontier")
        return Frontier.model_validate_json(answer.content)

    def allocate(self, measurement_id: str, request: AllocationRequest) -> AllocationAnswer:
        """Solve another budget on stored curves."""
        answer = self._http.request(
            "POST",
            f"/v1/measurements/{measurement_id}/allocations",
            json=request.model_dump(
                mode="json", exclude_none=True, include=set(AllocationRequest.model_fields)
            ),
            repeatable=True,
        )
        return AllocationAnswer.model_validate_json(answer.content)

    def fit(self, request: FitRequest) -> Fit:
        """Return which sizes of a model the server has met fit a device."""
        body = request.model_dump(mode="json")
        answer = self._http.request("POST", "/v1/fit", json=body, repeatable=True)
        return Fit.model_validate_json(answer.content)

    def devices(self) -> Iterator[Device]:
        """Give the devices whose memory the server knows."""
        for item in self._items("/v1/devices", {}):
            yield Device.model_validate(item)

    def workers(self) -> Iterator[Worker]:
        """Give every registered worker, newest first."""
        for item in self._items("/v1/workers", {}):
            yield Worker.model_validate(item)

    def register(self, registration: WorkerRegistration) -> WorkerWelcome:
        """Introduce a worker; its token claims leases from then on."""
        answer = self._http.request("POST", "/v1/workers", json=registration.model_dump())
        return WorkerWelcome.model_validate_json(answer.content)

    def claim(self, worker: WorkerWelcome) -> LeaseGrant | None:
        """Ask for a job; None when there is none, then ask again after `poll_seconds`."""
        claim = LeaseClaim(worker_id=worker.worker_id)
        return self._claimed("/v1/leases", claim, worker, LeaseGrant)

    def claim_followup(self, worker: WorkerWelcome) -> FollowupGrant | None:
        """Ask for something to do with a checkpoint that this worker made; None without any."""
        claim = FollowupClaim(worker_id=worker.worker_id)
        return self._claimed("/v1/followups", claim, worker, FollowupGrant)

    def _claimed(
        self, path: str, claim: BaseModel, worker: WorkerWelcome, kind: type[_Grant]
    ) -> _Grant | None:
        """Return what the server grants, None where there is nothing to do."""
        body = claim.model_dump()
        answer = self._http.request("POST", path, json=body, token=worker.token)
        if answer.status_code == httpx2.codes.NO_CONTENT:
            return None
        return kind.model_validate_json(answer.content)

    def renew_followup(self, worker: WorkerWelcome, followup_id: str) -> None:
        """Say that the worker is still at it; ConflictError once nobody waits."""
        self._http.request(
            "PUT",
            f"/v1/followups/{followup_id}",
            json=FollowupRenewal(worker_id=worker.worker_id).model_dump(),
            token=worker.token,
        )

    def end_followup(self, worker: WorkerWelcome, followup_id: str, end: FollowupEnd) -> None:
        """Say what came of a follow-up."""
        self._http.request(
            "PUT",
            f"/v1/followups/{followup_id}/result",
            json=end.model_dump(mode="json"),
            token=worker.token,
            repeatable=True,
        )

    def renew(
        self, lease: LeaseGrant, progress: Progress | None = None, log: Sequence[LogLine] = ()
    ) -> LeaseStatus:
        """Keep a lease, say how far the work is and what it tells people.

        Raises LostLeaseError once the lease belongs to no one.
        """
        renewal = LeaseRenewal(attempt=lease.attempt, progress=progress, log=tuple(log))
        answer = self._http.request(
            "PUT",
            f"/v1/leases/{lease.lease_id}",
            json=renewal.model_dump(mode="json"),
            token=lease.token,
            repeatable=True,
        )
        return LeaseStatus.model_validate_json(answer.content)

    def put_artifact(self, lease: LeaseGrant, name: str, data: bytes) -> None:
        """Upload a file of this attempt; the server checks its digest and contents."""
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        self._http.request(
            "PUT",
            f"/v1/leases/{lease.lease_id}/artifacts/{name}",
            params={"attempt": lease.attempt},
            content=data,
            headers={
                "Content-Digest": f"sha-256=:{digest}:",
                "Content-Type": "application/octet-stream",
            },
            token=lease.token,
            repeatable=True,
        )

    def get_artifact(self, lease: LeaseGrant, name: str) -> bytes:
        """Download a file that `lease.artifacts` lists."""
        answer = self._http.request(
            "GET",
            f"/v1/leases/{lease.lease_id}/artifacts/{name}",
            params={"attempt": lease.attempt},
            token=lease.token,
            repeatable=True,
        )
        return answer.content

    def finish(self, lease: LeaseGrant, result: LeaseResult) -> None:
        """Say how the attempt ended; saying the same twice is harmless."""
        self._http.request(
            "PUT",
            f"/v1/leases/{lease.lease_id}/result",
            json=result.model_dump(mode="json"),
            token=lease.token,
            repeatable=True,
        )

    def _get(self, path: str) -> httpx2.Response:
        return self._http.request("GET", path, repeatable=True)

    def _items(self, path: str, filters: JsonObject) -> Iterator[JsonObject]:
        query = {name: value for name, value in filters.items() if value is not None}
        while True:
            answer = self._http.request("GET", path, params=query, repeatable=True)
            page = Page[JsonObject].model_validate_json(answer.content)
            yield from page.items
            if page.next_cursor is None:
                return
            query["cursor"] = page.next_cursor
