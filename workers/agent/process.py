"""The child process of one lease, its events as a queue."""

from __future__ import annotations

import queue
import subprocess
import sys
import tempfile
import threading
from types import TracebackType
from typing import Final, Self

from pydantic import ValidationError

from bitbudget.app.contract.events import Event, Problem
from bitbudget.app.contract.tasks import JobTask

__all__ = ["ChildProcess"]

_STOP_SECONDS: Final = 5.0
_TAIL_CHARACTERS: Final = 2000


class ChildProcess:
    """`python -m bitbudget.workers.child` at work on one task; leaving the block ends it."""

    def __init__(self, task: JobTask) -> None:
        self._task = task
        self._events: queue.Queue[Event | None] = queue.Queue()

    def __enter__(self) -> Self:
        self._noise = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._child = subprocess.Popen(
            [sys.executable, "-m", "bitbudget.workers.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            encoding="utf-8",
        )
        self._reader = threading.Thread(target=self._read, name="child-events", daemon=True)
        self._reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._reader.join()
        if self._child.stdout is not None:
            self._child.stdout.close()
        self._noise.close()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    def stop(self) -> None:
        """End the child: what it finished is on disk, what it did not is done again."""
        if self._child.poll() is not None:
            return
        self._child.terminate()
        try:
            self._child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def next_event(self, timeout_seconds: float) -> Event | None:
        """Return the next event, None when none came in time.

        The last event is always `finished` or `failed`: for a child that died without a word a
        `failed` event says how.
        """
        try:
            event = self._events.get(timeout=timeout_seconds)
        except queue.Empty:
            return None
        return event or Event(kind="failed", problem=self._death())

    def _read(self) -> None:
        self._give_task()
        is_over = False
        for line in self._child.stdout or ():
            try:
                event = Event.model_validate_json(line)
            except ValidationError:
                continue
            is_over = event.kind in ("finished", "failed")
            self._events.put(event)
        if not is_over:
            self._events.put(None)

    def _give_task(self) -> None:
        if self._child.stdin is None:
            return
        try:
            with self._child.stdin as stdin:
                stdin.write(self._task.model_dump_json())
        except BrokenPipeError:
            return  # it died at once; its exit status tells

    def _death(self) -> Problem:
        status = self._child.wait()
        self._noise.seek(0)
        tail = self._noise.read()[-_TAIL_CHARACTERS:].strip()
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        return Problem(
            type="urn:bitbudget:problem:child-died",
            title="Child died",
            status=500,
            detail=f"the child ended {how} without an answer; it wrote: {tail or 'nothing'}",
        )
