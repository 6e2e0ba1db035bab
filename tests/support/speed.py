"""Limits on time that a slow or busy machine keeps as a fast one does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["check_processor_time", "least_seconds", "processor_limit"]

_WORK_SECONDS: Final = 0.03
"""What `_work` takes on a core of 2023, of which the limits of the tests speak."""


@contextmanager
def processor_limit(seconds: float) -> Iterator[None]:
    """Let the block take so much processor time at most: `with processor_limit(1.0): ...`."""
    began = time.process_time()
    yield
    check_processor_time(began, seconds)


def check_processor_time(began: float, seconds: float) -> None:
    """Fail when this process has computed for longer than so many seconds since `began`.

    `began` is what `time.process_time` returned. A slower core, or one that is shared with another
    process, has as much longer as it takes longer for a piece of work that is always the same.
    """
    used = time.process_time() - began
    if used >= seconds:  # only then is the piece of work worth its time
        limit = seconds * max(1.0, _processor_seconds(_work) / _WORK_SECONDS)
        assert used < limit, f"took {used:.2f} s of processor time, may take {limit:.2f} s"


def least_seconds(tries: Iterable[Callable[[], object]], enough: float) -> float:
    """Return the least time that one of `tries` takes; none is begun after one below `enough`.

    What else the machine does at the moment makes one try slow, and not all of them.
    """
    least = float("inf")
    for attempt in tries:
        began = time.perf_counter()
        attempt()
        least = min(least, time.perf_counter() - began)
        if least < enough:
            break
    return least


def _processor_seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _work() -> None:
    """Write and read JSON, and sort what is in it."""
    rows = [{"name": f"layer {number % 97}", "cost": number * 0.37} for number in range(10_000)]
    read = json.loads(json.dumps(rows))
    read.sort(key=lambda row: (row["name"], -row["cost"]))
    assert read[0]["name"] == "layer 0"
