"""Events of a job as server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from anyio import to_thread
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from bitbudget.app.jobs.notifications import Listener, Pulse
from bitbudget.app.jobs.schemas import JobEvent

__all__ = ["EventStream"]

_RECONNECT_MILLISECONDS: Final = 1000


@dataclass(frozen=True, slots=True)
class EventStream:
    """Reads events in batches and sends them, with comments while there are none."""

    pulse: Pulse
    heartbeat_seconds: float
    read: Callable[[int], tuple[list[JobEvent], bool]]

    async def lines(self, job_id: str, after: int) -> AsyncIterator[bytes]:
        """Give the stream's text until the job ends or the server stops."""
        yield format_sse_event(retry=_RECONNECT_MILLISECONDS)
        with self.pulse.listen(job_id) as listener:
            async for text in self._events(listener, after):
                yield text

    async def _events(self, listener: Listener, after: int) -> AsyncIterator[bytes]:
        while not self.pulse.is_stopped:
            listener.hold()
            events, has_more = await to_thread.run_sync(self.read, after)
            if events:
                yield b"".join(map(_encoded, events))
                after = events[-1].id
            elif not has_more:
                return
            else:
                async for comment in self._until_woken(listener):
                    yield comment

    async def _until_woken(self, listener: Listener) -> AsyncIterator[bytes]:
        """Give comments, which keep the connection open, while nothing happens to the job."""
        while not await listener.wait(self.heartbeat_seconds):
            yield KEEPALIVE_COMMENT


def _encoded(event: JobEvent) -> bytes:
    data = event.model_dump_json()
    return format_sse_event(data_str=data, event=event.kind, id=str(event.id))
