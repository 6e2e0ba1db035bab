"""One follow-up: a checkpoint that this worker made is tried, or published."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bitbudget.app.child.process import ChildProcess
from bitbudget.app.client.client import Client
from bitbudget.app.client.transport import ServerUnreachableError
from bitbudget.app.contract.events import TaskResult
from bitbudget.app.contract.followups import CompareText, FollowupEnd, FollowupGrant
from bitbudget.app.contract.home import Home
from bitbudget.app.contract.leases import WorkerWelcome
from bitbudget.app.contract.problems import Problem
from bitbudget.app.contract.reports import UploadResult
from bitbudget.app.contract.tasks import CompareTextTask, Task, UploadTask
from bitbudget.app.contract.texts import TextComparison
from bitbudget.app.core.errors import BitbudgetError, ConflictError, NotFoundError

__all__ = ["FollowupRun"]

_LOG: Final = logging.getLogger(__name__)
_EVENT_SECONDS: Final = 0.25
_MOST_SECONDS: Final = 1800.0


@dataclass(frozen=True)
class FollowupRun:
    """Does what `grant` asks for; `stop` is set when the worker is asked to go away.

    The checkpoint is looked up among those in `home` by the digest of its manifest: no path comes
    from the server. `publishes_to` is the namespace that the worker's owner allowed.
    """

    client: Client
    worker: WorkerWelcome
    grant: FollowupGrant
    home: Path
    stop: threading.Event
    publishes_to: str = ""

    def run(self) -> None:
        """Do it, and tell the server what came of it; nothing is told of what nobody waits for."""
        try:
            with ChildProcess() as child:
                child.give(self._task())
                end = self._follow(child)
        except (BitbudgetError, OSError) as error:
            slug = error.slug() if isinstance(error, BitbudgetError) else "worker-trouble"
            end = self._problem(slug, str(error))
        if end is not None:
            self.client.end_followup(self.worker, self.grant.followup_id, end)

    def _task(self) -> Task:
        asked, home = self.grant.asked, str(self.home)
        folder = str(self._checkpoint())
        if isinstance(asked, CompareText):
            request = self.grant.request
            return CompareTextTask(
                home=home,
                model=request.model,
                name=request.name,
                allow_quantized_source=request.allow_quantized_source,
                checkpoint=folder,
                prompt=asked.prompt,
                tokens=asked.tokens,
            )
        if asked.namespace != self.publishes_to:
            raise ConflictError(
                what="Namespace",
                name=asked.namespace,
                reason="this worker does not publish to it",
                remedy=f"start the worker with --publish-to {asked.namespace}",
            )
        return UploadTask(
            home=home, checkpoint=folder, repository=asked.repository, private=asked.private
        )

    def _checkpoint(self) -> Path:
        wanted = self.grant.manifest_sha256
        found = Home(self.home).finished_checkpoint(wanted)
        if found is None:
            raise NotFoundError(what="checkpoint on this worker", name=wanted)
        return found

    def _follow(self, child: ChildProcess) -> FollowupEnd | None:
        """Return how the child ended, None where nobody waits for it any more."""
        began = renewed = time.monotonic()
        while not self.stop.is_set():
            event = child.next_event(_EVENT_SECONDS)
            if event is not None and event.kind == "finished":
                return self._succeeded(event.result)
            if event is not None and event.kind == "failed":
                return FollowupEnd(worker_id=self.worker.worker_id, problem=event.problem)
            now = time.monotonic()
            if now - began > _MOST_SECONDS:
                return self._problem("too-slow", f"it took over {_MOST_SECONDS / 60:.0f} minutes")
            if now - renewed > self.grant.renew_seconds:
                renewed = now
                if not self._renew():
                    return None
        return self._problem("worker-gone", "the worker was stopped; ask again when it is back")

    def _renew(self) -> bool:
        """Return whether the server still waits; one that is away may."""
        try:
            self.client.renew_followup(self.worker, self.grant.followup_id)
        except ServerUnreachableError as error:
            _LOG.warning("%s", error)
        except BitbudgetError as error:
            _LOG.warning("follow-up %s: %s", self.grant.followup_id, error)
            return False
        return True

    def _succeeded(self, result: TaskResult) -> FollowupEnd:
        if isinstance(result, TextComparison | UploadResult):
            return FollowupEnd(worker_id=self.worker.worker_id, result=result)
        return self._problem("child-died", f"it answered with a {type(result).__name__}")

    def _problem(self, slug: str, detail: str) -> FollowupEnd:
        return FollowupEnd(worker_id=self.worker.worker_id, problem=Problem.about(slug, detail))
