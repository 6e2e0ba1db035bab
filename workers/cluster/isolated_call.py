"""Call a function in a process of its own, as heavy work is run everywhere.

MLX's streams belong to a thread, and the last bits of a product depend on how many threads its BLAS
has: both are settled where a process starts. A worker of a cluster, whose tasks run in threads, so
answers with the bits of the machine that asks. What it passes on stays pickled, so that it imports
nothing of what it runs.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bitbudget.workers.cluster.batches import WorkerFailedError
from bitbudget.workers.cluster.parent_watch import end_with_parent
from bitbudget.workers.native.blas import THREADS_VARIABLE, blas_threads, preload_environment

__all__ = ["Parcel", "run_apart"]


@dataclass(frozen=True, slots=True)
class Parcel:
    """A call: `name` is for people, `blas_threads` are as many as the sender's BLAS has."""

    name: str
    content: bytes
    blas_threads: int

    @classmethod
    def of(cls, name: str, function: Callable[[Any], Iterable[Any]], argument: object) -> Parcel:
        """Pack `function(argument)`; both must pickle."""
        return cls(name, pickle.dumps((function, argument)), blas_threads(os.environ))


def run_apart(parcel: Parcel) -> list[Any]:
    """Return what the call gives, as a list, or raise what it raises.

    Raises WorkerFailedError when the process dies.
    """
    wanted = {
        THREADS_VARIABLE: str(parcel.blas_threads),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=parcel.content,
        stdout=subprocess.PIPE,
        env=preload_environment({**os.environ, **wanted}),
        check=False,
    )
    if done.returncode:
        raise WorkerFailedError(name=parcel.name, reason=_end(done.returncode))
    error, result = pickle.loads(done.stdout)  # noqa: S301 - written by `main` below
    if error is not None:
        raise error
    return list(result)


def _end(code: int) -> str:
    if code > 0:
        return f"its process ended with {code}"
    ended_by = signal.Signals(-code).name
    return f"its process was ended by {ended_by}, as the system does when memory is short"


def main() -> None:
    """Make the call on standard input; standard output carries the answer alone."""
    end_with_parent()
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        pickle.dump(_answer(sys.stdin.buffer.read()), answers)


def _answer(content: bytes) -> tuple[Exception | None, list[Any]]:
    from bitbudget.workers.models.library import defer_package  # noqa: PLC0415, only the process itself

    defer_package()
    try:
        function, argument = pickle.loads(content)  # noqa: S301 - from the process that started it
        return None, list(function(argument))
    except Exception as error:  # noqa: BLE001, whoever asked is told
        traceback.print_exception(error, file=sys.stderr)
        return error, []


if __name__ == "__main__":
    main()
