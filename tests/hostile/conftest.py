"""A limit of one second on everything that meets a hostile file.

The second is counted in processor time, so that a busy machine fails no test; what waits instead
of working is stopped by a longer limit on the clock. A slow core has a longer second.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

import pytest

from bitbudget.app.core.errors import BitbudgetError
from tests.support.speed import check_processor_time

LIMIT_SECONDS = 1.0
WAIT_SECONDS = 30.0

Refused = Callable[[], AbstractContextManager[None]]


def _too_long(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    pytest.fail(f"waited longer than {WAIT_SECONDS} s")


@pytest.fixture
def refused() -> Refused:
    """A block that must end in a BitbudgetError with a whole message within a second."""

    @contextmanager
    def expect() -> Iterator[None]:
        previous = signal.signal(signal.SIGALRM, _too_long)
        signal.setitimer(signal.ITIMER_REAL, WAIT_SECONDS)
        started = time.process_time()
        try:
            with pytest.raises(BitbudgetError) as caught:
                yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        check_processor_time(started, LIMIT_SECONDS)
        message = str(caught.value)
        assert 20 < len(message) < 1000, message
        assert "Traceback" not in message

    return expect
