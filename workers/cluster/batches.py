"""Spread batches of work over an executor: processes of this machine, or a Dask cluster.

What a worker needs beside its batch it reads itself, from the same path as here. Errors that
another attempt cannot mend (NaN, a truncated file, a folder that is not there) end the run at once;
a lost worker or a failing disk is retried.
"""

from __future__ import annotations

import heapq
import importlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from bitbudget.app.core.errors import BitbudgetError, InvalidRequestError
from bitbudget.distribution import install_hint
from bitbudget.workers.streaming.files import ReadError

__all__ = [
    "BATCHES_PER_WORKER",
    "Batch",
    "WorkerFailedError",
    "balanced_batches",
    "check_cluster",
    "completed",
    "on_cluster",
    "require_seen",
]

BATCHES_PER_WORKER: Final = 4
"""Smaller batches even out workers of different speed and lose less when one dies."""

ATTEMPTS: Final = 3

CONNECT_SECONDS = 10.0
"""How long the scheduler may take to answer."""


class WorkerFailedError(BitbudgetError):
    """A batch was given back by every worker that tried it."""

    template = "{name}: found no worker that finished it ({reason}); {remedy}."

    def __init__(self, *, name: str, reason: str) -> None:
        super().__init__(
            name=name,
            reason=reason,
            remedy="look at that worker's log and memory, then run again: what is finished is kept",
        )


_MENDABLE: Final = (OSError, MemoryError, ReadError, WorkerFailedError)
"""Errors that another attempt, maybe on another machine, may not meet again."""


class Batch(Protocol):
    """What one worker does in one go."""

    @property
    def name(self) -> str:
        """What a person calls it: its modules."""


Item = TypeVar("Item")
Result = TypeVar("Result")
SomeBatch = TypeVar("SomeBatch", bound=Batch)


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[Result]):
    results: tuple[Result, ...] = ()
    error: BitbudgetError | None = None


def balanced_batches(
    items: Iterable[Item], count: int, nbytes: Callable[[Item], int]
) -> list[tuple[Item, ...]]:
    """Deal items out to at most `count` batches of about equal bytes, the largest batch first."""
    heap: list[tuple[int, int, list[Item]]] = [(0, i, []) for i in range(max(1, count))]
    for item in sorted(items, key=lambda item: -nbytes(item)):
        load, index, members = heapq.heappop(heap)
        members.append(item)
        heapq.heappush(heap, (load + nbytes(item), index, members))
    ordered = sorted(heap, key=lambda entry: (-entry[0], entry[1]))
    return [tuple(members) for _, _, members in ordered if members]


def completed(
    executor: Executor,
    work: Callable[[SomeBatch], Iterable[Result]],
    batches: Sequence[SomeBatch],
) -> Iterator[tuple[SomeBatch, tuple[Result, ...]]]:
    """Yield every batch with what `work` made of it, as they finish.

    A batch has up to ATTEMPTS attempts; the first error that stays is raised, and names the batch
    where it is none of ours.
    """
    waiting = importlib.import_module("concurrent.futures")
    running: dict[Future[_Outcome[Result]], tuple[SomeBatch, int]] = {
        executor.submit(_attempt, work, batch): (batch, 1) for batch in batches
    }
    try:
        while running:
            done = waiting.wait(running, return_when="FIRST_COMPLETED").done
            for future in done:
                batch, attempt = running.pop(future)
                outcome = _outcome(future, batch, is_last=attempt == ATTEMPTS)
                if outcome is None:
                    running[executor.submit(_attempt, work, batch)] = (batch, attempt + 1)
                    continue
                if outcome.error is not None:
                    raise outcome.error
                yield batch, outcome.results
    finally:
        for future in running:
            future.cancel()


def _attempt(work: Callable[[SomeBatch], Iterable[Result]], batch: SomeBatch) -> _Outcome[Result]:
    """Do one batch in a worker process; only what another attempt may mend is raised."""
    try:
        return _Outcome(tuple(work(batch)))
    except _MENDABLE:
        raise
    except BitbudgetError as error:
        return _Outcome(error=error)


def _outcome(
    future: Future[_Outcome[Result]], batch: Batch, *, is_last: bool
) -> _Outcome[Result] | None:
    """Return how an attempt ended, None where another one may end better."""
    try:
        return future.result()
    except Exception as error:
        if isinstance(error, _MENDABLE) and not is_last:
            return None
        if isinstance(error, BitbudgetError):
            raise
        reason = f"{type(error).__name__}: {error}"
        raise WorkerFailedError(name=batch.name, reason=reason) from error


@contextmanager
def on_cluster(address: str) -> Iterator[tuple[Executor, int]]:
    """Give an executor over the Dask cluster whose scheduler is at `address`, and its workers.

    Certificates for mutual TLS come from Dask's own configuration (`distributed.comm.tls`).
    Raises InvalidRequestError when Dask is missing, the scheduler does not answer or has no worker.
    """
    with _client(address) as client:
        yield client.get_executor(pure=False), len(client.nthreads())


def check_cluster(address: str, folders: Sequence[Path]) -> None:
    """Raise InvalidRequestError when a worker that is there now does not see one of `folders`.

    Raises the same as `on_cluster`, too.
    """
    with _client(address) as client:
        for folder in folders:
            client.run(require_seen, folder)


@contextmanager
def _client(address: str) -> Iterator[Any]:
    try:
        distributed = importlib.import_module("distributed")
    except ImportError as error:
        raise _refused(address, "no Dask", install_hint("cluster")) from error
    try:
        client: Any = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        remedy = "check the address, the certificates and that `dask scheduler` runs there"
        raise _refused(address, f"no answer ({error})", remedy) from error
    with client:
        if not client.nthreads():
            raise _refused(address, "no workers", "start `dask worker` on the machines to use")
        yield client


def _refused(address: str, found: str, remedy: str) -> InvalidRequestError:
    return InvalidRequestError(
        where=f"--cluster {address}", found=found, expected="a Dask scheduler", remedy=remedy
    )


def require_seen(path: Path) -> None:
    """Raise InvalidRequestError where this machine has nothing at `path`."""
    if path.exists():
        return
    raise InvalidRequestError(
        where=f"worker {socket.gethostname()}, process {os.getpid()}",
        found=f"nothing at {path}",
        expected="what this path holds on the machine that measures",
        remedy="share that folder with every machine of the cluster, at the same path",
    )
