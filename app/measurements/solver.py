"""The process in which a server's searches run: `python -m bitbudget.app.measurements.solver`.

Standard input is a socket to the server. Each question on it is answered by an `Outcome`; whatever
comes while a question is being worked on says that nobody waits for its answer any more. The
process ends when the server closes the socket or dies.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection
from typing import Any, Final

from bitbudget.app.core.measurement import Measurement
from bitbudget.app.measurements.solving import limited

__all__ = ["STOP", "InParts", "Outcome", "Question", "main"]

STOP: Final = "stop"
"""Nobody waits for the answer that is being searched any more."""
_LOOK_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class InParts:
    """A measurement pickled curve by curve.

    Pickling holds the interpreter: of a measurement of 400 modules for 20 to 30 ms at once, in
    which the server answers nobody.
    """

    others: bytes
    curves: tuple[bytes, ...]

    @classmethod
    def of(cls, measurement: Measurement) -> InParts:
        """Return `measurement` in parts."""
        others = {f.name: getattr(measurement, f.name) for f in fields(measurement)}
        curves = others.pop("curves")
        return cls(pickle.dumps(others), tuple(pickle.dumps(curve) for curve in curves))

    def whole(self) -> Measurement:
        """Return the measurement."""
        curves = tuple(pickle.loads(curve) for curve in self.curves)  # noqa: S301, the server's own
        return Measurement(**pickle.loads(self.others), curves=curves)  # noqa: S301, the same


@dataclass(frozen=True, slots=True)
class Question:
    """Work on a measurement, which comes along where this process does not have it yet.

    Measurements whose numbers are not in `kept` are let go.
    """

    work: Callable[[Measurement], Any]
    seconds: float
    number: int
    measurement: InParts | None
    kept: frozenset[int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the work returned, or raised."""

    value: Any = None
    error: Exception | None = None


def main() -> None:
    """Answer questions until the server is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to answer
    line = Connection(os.dup(sys.stdin.fileno()))
    measurements: dict[int, Measurement] = {}
    with suppress(EOFError, ConnectionError):
        while True:
            question = line.recv()
            if question != STOP:
                line.send(_outcome(question, measurements, line))


def _outcome(question: Question, measurements: dict[int, Measurement], line: Connection) -> Outcome:
    for number in measurements.keys() - question.kept:
        del measurements[number]
    if question.measurement is not None:
        measurements[question.number] = question.measurement.whole()
    try:
        with limited(question.seconds, _Stopped(line)):
            found = question.work(measurements[question.number])
    except Exception as error:  # noqa: BLE001 - the server raises it
        return Outcome(error=error)
    return Outcome(found)


class _Stopped:
    """Whether the server said something, or is gone; looked at 20 times a second."""

    def __init__(self, line: Connection) -> None:
        self._line = line
        self._looked = time.monotonic()
        self._is_stopped = False

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self._is_stopped and now - self._looked > _LOOK_SECONDS:
            self._looked = now
            self._is_stopped = self._line.poll()
        return self._is_stopped


if __name__ == "__main__":
    # Pickled functions and classes name the module, not `__main__`.
    from bitbudget.app.measurements import solver

    solver.main()
