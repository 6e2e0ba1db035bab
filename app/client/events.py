"""Server-sent events, read with reconnection (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import httpx2

from bitbudget.app.client.transport import ServerUnreachableError, Transport
from bitbudget.app.jobs.schemas import JobEvent
from bitbudget.app.jobs.status import EventKind

__all__ = ["read_events"]

_FINAL: Final = (EventKind.SUCCEEDED, EventKind.FAILED, EventKind.CANCELLED)
_RECONNECT_SECONDS: Final = 1.0
_MAX_RECONNECTS: Final = 60
"""Reconnections in a row without a single event before the server counts as gone."""


def read_events(
    transport: Transport, path: str, after: int, told: Callable[[str], None]
) -> Iterator[JobEvent]:
    """Give events after the one numbered `after`, until the last of the job.

    `told` is told when the server stops answering.
    """
    failures = 0
    while True:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        try:
            with transport.stream(path, headers) as answer:
                if answer.status_code == httpx2.codes.NO_CONTENT:
                    return
                for event in _events(answer):
                    yield event
                    after, failures = event.id, 0
                    if event.kind in _FINAL:
                        return
        except httpx2.TransportError as error:
            failures += 1
            if failures == 1:
                told(f"{transport.server} does not answer; asking again for a minute")
            if failures > _MAX_RECONNECTS:
                raise ServerUnreachableError(server=transport.server, reason=str(error)) from error
        time.sleep(_RECONNECT_SECONDS)


def _events(answer: httpx2.Response) -> Iterator[JobEvent]:
    for line in answer.iter_lines():
        if line.startswith("data:"):
            yield JobEvent.model_validate_json(line.removeprefix("data:"))
