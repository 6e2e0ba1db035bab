"""The child process at work on one task, its events as they come.

    with ChildProcess() as child:
        child.give(task)
        for event in child.events():
            ...

The last event is always `finished` or `failed`: for a child that died, that said what cannot be
read, or that took too long, a `failed` event says so, with the last lines of its standard error.
"""

from __future__ import annotations

import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from selectors import EVENT_READ, DefaultSelector
from types import TracebackType
from typing import IO, TYPE_CHECKING, Final, Self

from bitbudget.app.child.tail import Tail

if TYPE_CHECKING:
    from bitbudget.app.contract.events import Event
    from bitbudget.app.contract.problems import Problem
    from bitbudget.app.contract.tasks import Task

__all__ = ["ChildProcess"]

_STOP_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.2
_CHUNK_BYTES: Final = 1 << 16
_UNAVAILABLE: Final = 503
_UNPROCESSABLE: Final = 422


class ChildProcess:
    """`python -m bitbudget.workers.child OPTIONS`; leaving the block ends it.

    `most_seconds` bounds the time from its start to its last event.
    """

    def __init__(self, *options: str, most_seconds: float | None = None) -> None:
        self._command = [sys.executable, "-m", "bitbudget.workers.child", *options]
        self._most_seconds = most_seconds
        self._events: queue.Queue[Event | None] = queue.Queue()
        self._tail = Tail()
        self._unread = ""
        self._line = bytearray()
        self._is_over = False

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._child = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
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
        for stream in (self._child.stdin, self._child.stdout, self._child.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    def give(self, task: Task) -> None:
        """Hand over the task; a child that died at once is told by its last event."""
        if self._child.stdin is not None:
            with suppress(BrokenPipeError), self._child.stdin as stdin:
                stdin.write(task.model_dump_json().encode())

    def events(self) -> Iterator[Event]:
        """Give every event up to the last."""
        while not self._is_over:
            event = self.next_event(_POLL_SECONDS)
            if event is not None:
                yield event

    def next_event(self, timeout_seconds: float) -> Event | None:
        """Return the next event, None when none came in time."""
        left = self._seconds_left()
        if left <= 0:
            self.stop()
            return self._last(self._overdue())
        try:
            event = self._events.get(timeout=min(timeout_seconds, left))
        except queue.Empty:
            return None
        if event is None:
            return self._last(self._death())
        self._is_over = event.kind in ("finished", "failed")
        return event

    def stop(self) -> None:
        """End the child: what it finished is on disk, what it did not is done again."""
        if self._is_over and self._ends():
            return
        self._child.terminate()
        if not self._ends():
            self._child.kill()
            self._child.wait()

    def _ends(self) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(_STOP_SECONDS)
        return self._child.poll() is not None

    def _seconds_left(self) -> float:
        if self._most_seconds is None:
            return math.inf
        return self._began + self._most_seconds - time.monotonic()

    def _last(self, problem: Problem) -> Event:
        from bitbudget.app.contract.events import Failed  # noqa: PLC0415, read while the child starts

        self._is_over = True
        return Failed(problem=problem)

    def _read(self) -> None:
        """Put every event into the queue, and None when the child ends without a last one.

        What the child starts may keep its standard error open: its events' end is its end.
        """
        out, noise = self._child.stdout, self._child.stderr
        if out is None or noise is None:
            return
        os.set_blocking(noise.fileno(), False)
        with DefaultSelector() as ready:
            ready.register(out, EVENT_READ)
            ready.register(noise, EVENT_READ)
            is_open = True
            while is_open:
                for key, _ in ready.select():
                    if key.fileobj is out:
                        is_open = self._take(os.read(key.fd, _CHUNK_BYTES))
                    elif not self._drain(noise):
                        ready.unregister(noise)
        self._drain(noise)
        self._events.put(None)

    def _drain(self, noise: IO[bytes]) -> bool:
        """Keep what stands in standard error; return whether there can be more."""
        while True:
            try:
                data = os.read(noise.fileno(), _CHUNK_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._tail.add(data)

    def _take(self, data: bytes) -> bool:
        """Queue the events of whole lines, and of the rest when `data` is the end: nothing."""
        self._line += data or b"\n"
        if b"\n" in (data or b"\n"):
            *lines, self._line = self._line.split(b"\n")
            for line in filter(bytes.strip, map(bytes, lines)):
                self._queue(line)
        return bool(data)

    def _queue(self, line: bytes) -> None:
        from pydantic import ValidationError  # noqa: PLC0415, read while the child starts

        from bitbudget.app.contract.events import EVENT  # noqa: PLC0415, as above

        try:
            self._events.put(EVENT.validate_json(line))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            self._unread = self._unread or f"{place or 'a line'}: {first['msg']}"

    def _death(self) -> Problem:
        from bitbudget.app.contract.problems import Problem  # noqa: PLC0415, as above

        status = self._child.wait()
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        if status == -signal.SIGKILL:
            how += ", as the system ends what takes more memory than there is,"
        if status == -signal.SIGXCPU:
            return Problem.about(
                "too-slow",
                "reading the model's files took more processor time than any sound model needs:"
                " its config.json may not belong to its weights",
                status=_UNPROCESSABLE,
            )
        what = f"; what it said cannot be read ({self._unread})" if self._unread else ""
        wrote = self._tail.text() or "nothing"
        return Problem.about(
            "child-died",
            f"the child process ended {how} without an answer{what}; it wrote: {wrote}",
        )

    def _overdue(self) -> Problem:
        from bitbudget.app.contract.problems import Problem  # noqa: PLC0415, as above

        return Problem.about(
            "child-overdue",
            f"the child process took longer than {self._most_seconds:.0f} s and was stopped",
            status=_UNAVAILABLE,
        )
