"""Events of a job as server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from anyio import to_thread

from app.jobs.pulse import Pulse
from app.jobs.schemas import JobEvent

__all__ = ["EventStream"]

Batch = tuple[list[JobEvent], bool]


@dataclass(frozen=True, slots=True)
class EventStream:
    """Reads events in batches and sends them, with comments while there are none."""

    pulse: Pulse
    heartbeat_seconds: float
    read: Callable[[int], Batch]

    async def lines(self, first: Batch, after: int) -> AsyncIterator[str]:
        """Give the stream's text until the job ends or the server stops."""
        self.pulse.joined()
        try:
            yield "retry: 1000\n"  # no blank line: it belongs to the first event
            async for text in self._events(first, after):
                yield text
        finally:
            self.pulse.left()

    async def _events(self, batch: Batch, after: int) -> AsyncIterator[str]:
        quiet_since = time.monotonic()
        while not self.pulse.is_stopped:
            events, has_more = batch
            if events:
                yield "".join(map(_as_text, events))
                after, quiet_since = events[-1].id, time.monotonic()
            elif not has_more:
                return
            else:
                if time.monotonic() - quiet_since >= self.heartbeat_seconds:
                    yield ": still here\n\n"
                    quiet_since = time.monotonic()
                await self.pulse.wait(self.heartbeat_seconds)
            batch = await to_thread.run_sync(self.read, after)


def _as_text(event: JobEvent) -> str:
    return f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"
