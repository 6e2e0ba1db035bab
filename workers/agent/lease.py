"""One lease from claim to result."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final

from bitbudget.app.child.process import ChildProcess
from bitbudget.app.client.client import Client
from bitbudget.app.client.transport import ServerProblemError, ServerUnreachableError
from bitbudget.app.contract.events import (
    ArtifactMade,
    Event,
    Progress,
    Progressed,
    Started,
    TaskResult,
)
from bitbudget.app.contract.home import Folder
from bitbudget.app.contract.leases import LeaseGrant, LeaseOutcome, LeaseResult
from bitbudget.app.contract.problems import Problem
from bitbudget.app.contract.reports import JobResult
from bitbudget.app.contract.tasks import JobTask
from bitbudget.app.core.errors import LostLeaseError
from bitbudget.app.core.requests import Deliver
from bitbudget.workers.agent.heartbeat import Heartbeat

__all__ = ["LeaseRun", "outcome_of"]

_LOG: Final = logging.getLogger(__name__)
_EVENT_SECONDS: Final = 0.25
_REACH_SECONDS: Final = 2.0
_MANIFEST: Final = "manifest.json"
_MEASUREMENT: Final = "measurement.json"
_FIRST_MANIFEST: Final = "first_manifest.json"
_WRONG_DOCUMENTS: Final = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY)
_UNFORESEEN: Final = "urn:bitbudget:problem:internal"


@dataclass
class LeaseRun:
    """Runs the job of `lease`; `stop` is set when the worker is asked to go away."""

    client: Client
    server: str
    lease: LeaseGrant
    home: Path
    stop: threading.Event
    disk_limit_bytes: int | None = None
    measurement_repositories: tuple[str, ...] = ()
    _stored: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self._stored = {artifact.name: artifact.sha256 for artifact in self.lease.artifacts}

    def run(self) -> LeaseOutcome | None:
        """Return how the attempt ended, None when the lease was lost to another."""
        try:
            with Heartbeat(self.server, self.lease) as heartbeat:
                result = self._attempt(heartbeat)
                if result is None:
                    return None
                heartbeat.flush(self.client)
                result = self._tell(result)
        except LostLeaseError as error:
            _LOG.warning("%s", error)
            return None
        return LeaseOutcome(result.outcome)

    def _tell(self, result: LeaseResult) -> LeaseResult:
        """Return the end that the server took: `result`, or that it was refused and why."""
        try:
            self._insist(lambda: self.client.finish(self.lease, result))
        except ServerProblemError as error:
            refused = self._refused("result-refused", error)
            self._insist(lambda: self.client.finish(self.lease, refused))
            return refused
        return result

    def _attempt(self, heartbeat: Heartbeat) -> LeaseResult | None:
        """Return how the attempt ended, its child gone; None when the lease was lost."""
        try:
            with ChildProcess() as child:
                child.give(self._task())
                return self._follow(child, heartbeat)
        except OSError as error:  # a disk that is full, a process that cannot be started
            _LOG.warning("job %s: %s", self.lease.job_id, error)
            return self._mishap("worker-trouble", str(error))

    def _task(self) -> JobTask:
        request = self.lease.request
        if _FIRST_MANIFEST in self._stored:
            request = request.model_copy(update={"preview": False})
        return JobTask(
            home=str(self.home),
            disk_limit_bytes=self.disk_limit_bytes,
            request=request,
            baseline=request.deliver is Deliver.CHECKPOINT,
            measurement=self._from_earlier_attempt(_MEASUREMENT),
            manifest=self._from_earlier_attempt(_MANIFEST),
            names_are_ids=True,
            measurement_repositories=self.measurement_repositories,
        )

    def _from_earlier_attempt(self, name: str) -> str | None:
        """Bring a file that an earlier attempt, perhaps on another machine, has uploaded."""
        if name not in self._stored:
            return None
        path = Folder.INCOMING.under(self.home) / self.lease.job_id / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.client.get_artifact(self.lease, name))
        return str(path)

    def _follow(self, child: ChildProcess, heartbeat: Heartbeat) -> LeaseResult | None:
        while True:
            if heartbeat.is_lost:
                return None
            if heartbeat.is_cancelled:
                return self._result(LeaseOutcome.CANCELLED)
            if self.stop.is_set():
                return self._result(LeaseOutcome.RELEASED)
            event = child.next_event(_EVENT_SECONDS)
            if event is None:
                continue
            result = self._take(event, heartbeat)
            if result is not None:
                return result

    def _take(self, event: Event, heartbeat: Heartbeat) -> LeaseResult | None:
        """Pass on what the child tells; return how the attempt ended once it has."""
        match event.kind:
            case "finished":
                return self._succeeded(event.result)
            case "failed":
                return self._result(outcome_of(event.problem), problem=event.problem)
            case "artifact":
                return self._upload(event)
            case "log":
                heartbeat.log(event)
            case "started" | "progress":
                heartbeat.progress = _progress(event)
        return None

    def _succeeded(self, result: TaskResult) -> LeaseResult:
        if isinstance(result, JobResult):
            return self._result(LeaseOutcome.SUCCEEDED, result=result)
        return self._mishap("child-died", f"it answered with a {type(result).__name__}")

    def _result(
        self,
        outcome: LeaseOutcome,
        *,
        result: JobResult | None = None,
        problem: Problem | None = None,
    ) -> LeaseResult:
        return LeaseResult.model_validate(
            {
                "attempt": self.lease.attempt,
                "outcome": outcome,
                "result": result,
                "problem": problem,
            }
        )

    def _upload(self, event: ArtifactMade) -> LeaseResult | None:
        """Upload a file unless the server's newest of that name is the same."""
        if self._stored.get(event.name) == event.sha256:
            return None
        data = Path(event.path).read_bytes()
        try:
            self._insist(lambda: self.client.put_artifact(self.lease, event.name, data))
        except ServerProblemError as error:
            return self._refused("upload-refused", error)
        self._stored[event.name] = event.sha256
        return None

    def _refused(self, slug: str, error: ServerProblemError) -> LeaseResult:
        """Return the end of an attempt whose documents the server does not take.

        What is wrong with them (4xx) would be wrong again: final.
        """
        status = int(error.fields["status_code"])
        if status not in _WRONG_DOCUMENTS:
            return self._mishap(slug, str(error))
        problem = Problem.about(slug, str(error), status=status)
        return self._result(outcome_of(problem), problem=problem)

    def _mishap(self, slug: str, detail: str) -> LeaseResult:
        return self._result(LeaseOutcome.CRASHED, problem=Problem.about(slug, detail))

    def _insist(self, call: Callable[[], None]) -> None:
        """Repeat `call` while the server is away; a worker that must go gives up."""
        while True:
            try:
                call()
            except ServerUnreachableError as error:
                _LOG.warning("%s", error)
                if self.stop.is_set():
                    raise
                time.sleep(_REACH_SECONDS)
            else:
                return


def _progress(event: Started | Progressed) -> Progress:
    return Progress.model_validate(event.model_dump(exclude={"kind"}))


def outcome_of(problem: Problem) -> LeaseOutcome:
    """Tell a faulty input (final) from a mishap of this attempt (tried again)."""
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        return LeaseOutcome.FAILED  # the Hub: it was asked patiently, and says why
    if problem.type == _UNFORESEEN:
        return LeaseOutcome.FAILED  # the same input meets the same defect again
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return LeaseOutcome.CRASHED
    return LeaseOutcome.FAILED
