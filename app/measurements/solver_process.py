"""Searches in processes of their own: they compete with no request for the server's interpreter.

They run at low priority. A process is started when none is idle, and kept for the next question.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from multiprocessing.connection import Connection
from threading import Lock
from typing import Final, TypeVar, cast

from bitbudget.app.core.measurement import Measurement
from bitbudget.app.http.errors import UnavailableError
from bitbudget.app.measurements.solver import STOP, InParts, Outcome, Question

__all__ = ["SolverProcess", "ask_a_process"]

_KEPT: Final = 4
"""Measurements that a process keeps for the next question."""
_NICENESS: Final = 5
_WATCH_SECONDS: Final = 0.1
_STOP_SECONDS: Final = 5.0
Result = TypeVar("Result")


class SolverProcess:
    """A process that answers one question at a time.

    process.ask(10.0, lambda: False, partial(solve, request=request), measurement)
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._child: subprocess.Popen[bytes] = subprocess.Popen(
                [sys.executable, "-m", "bitbudget.app.measurements.solver"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
            )
        os.setpriority(os.PRIO_PROCESS, self._child.pid, _NICENESS)
        self._line = Connection(ours.detach())
        self._numbers = count()
        self._known: OrderedDict[int, tuple[Measurement, int]] = OrderedDict()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._child.poll() is None

    def ask(
        self,
        seconds: float,
        is_gone: Callable[[], bool],
        work: Callable[[Measurement], Result],
        measurement: Measurement,
    ) -> Result:
        """Return what `work` returns there in about so many seconds, or raise what it raises.

        When `is_gone`, the search is told to stop, and the process ended unless that helps.
        UnavailableError where the process ends without an answer.
        """
        try:
            number, is_new = self._numbered(measurement)
            kept = frozenset(known for _, known in self._known.values())
            given = InParts.of(measurement) if is_new else None
            self._line.send(Question(work, seconds, number, given, kept))
            outcome = self._received(is_gone)
        except (EOFError, OSError) as error:
            self.close()
            raise UnavailableError(what="process that solves") from error
        if outcome.error is not None:
            raise outcome.error
        return cast("Result", outcome.value)

    def _numbered(self, measurement: Measurement) -> tuple[int, bool]:
        """Return the number that a measurement has there, and whether it is not there yet."""
        place = id(measurement)  # no other's, as long as it is kept here
        is_new = place not in self._known
        if is_new:
            self._known[place] = measurement, next(self._numbers)
        self._known.move_to_end(place)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return self._known[place][1], is_new

    def _received(self, is_gone: Callable[[], bool]) -> Outcome:
        stopped_at: float | None = None
        while not self._line.poll(_WATCH_SECONDS):
            if stopped_at is None and is_gone():
                stopped_at = time.monotonic()
                self._line.send(STOP)
            elif stopped_at is not None and time.monotonic() - stopped_at > _STOP_SECONDS:
                self._child.kill()
        return cast("Outcome", self._line.recv())

    def close(self) -> None:
        """End the process."""
        self._line.close()
        self._child.kill()
        self._child.wait()


_IDLE: Final[list[SolverProcess]] = []
_LOCK: Final = Lock()


def ask_a_process(
    seconds: float,
    is_gone: Callable[[], bool],
    work: Callable[[Measurement], Result],
    measurement: Measurement,
) -> Result:
    """Return what `work` returns in an idle process, or raise what it raises."""
    process = _taken()
    try:
        return process.ask(seconds, is_gone, work, measurement)
    finally:
        with _LOCK:
            _IDLE.append(process)


def _taken() -> SolverProcess:
    while True:
        with _LOCK:
            process = _IDLE.pop() if _IDLE else None
        if process is None:
            return SolverProcess()
        if process.is_alive:
            return process
        process.close()


def _end_all() -> None:
    for process in _IDLE:
        process.close()


atexit.register(_end_all)
