"""Events of a job as server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from anyio import to_thread
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from bitbudget.app.auth.service import KeyService
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
    keys: KeyService
    heartbeat_seconds: float

    async def lines(self, job_id: str, after: int, owner: str) -> AsyncIterator[bytes]:
        """Give the stream's text until the job, the key `owner` or the server ends."""
        yield format_sse_event(retry=_RECONNECT_MILLISECONDS)
        with self.pulse.listen(job_id) as listener:
            async for text in self._events(listener, job_id, after, owner):
                yield text

    async def _events(
        self, listener: Listener, job_id: str, after: int, owner: str
    ) -> AsyncIterator[bytes]:
        while not self.pulse.is_stopped:
            listener.hold()
            if owner and not await to_thread.run_sync(self.keys.is_usable, owner):
                return
            events, has_more = await to_thread.run_sync(self.jobs.events, job_id, after)
            if events:
                yield b"".join(map(_encoded, events))
                after = events[-1].id
            elif not has_more:
                return
            elif not await listener.wait(self.heartbeat_seconds):
                yield KEEPALIVE_COMMENT  # keeps the connection open while nothing happens


def _encoded(event: JobEvent) -> bytes:
    data = event.model_dump_json()
    return format_sse_event(data_str=data, event=event.kind, id=str(event.id))
