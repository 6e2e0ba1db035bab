"""Events of a job as server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from anyio import to_thread
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from bitbudget.app.jobs.notifications import Listener, Pulse
from bitbudget.app.jobs.schemas import JobEvent
from bitbudget.app.jobs.service import JobService

__all__ = ["EventStreams"]

_RECONNECT_MILLISECONDS: Final = 1000


@dataclass(frozen=True, slots=True)
class EventStreams:
    """Reads events of a job in batches and sends them, with comments while there are none."""

    pulse: Pulse
    jobs: JobService
    heartbeat_seconds: float

    async def lines(self, job_id: str, after: int) -> AsyncIterator[bytes]:
        """Give the stream's text until the job ends or the server stops."""
        yield format_sse_event(retry=_RECONNECT_MILLISECONDS)
        with self.pulse.listen(job_id) as listener:
            async for text in self._events(listener, job_id, after):
                yield text

    async def _events(self, listener: Listener, job_id: str, after: int) -> AsyncIterator[bytes]:
        while not self.pulse.is_stopped:
            listener.hold()
            events, has_more = await to_thread.run_sync(self.jobs.events, job_id, after)
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
