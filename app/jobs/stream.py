"""Events of a job as server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from anyio import to_thread

from bitbudget.app.jobs.notifications import Listener, Pulse
from bitbudget.app.jobs.schemas import JobEvent

__all__ = ["EventStream"]


@dataclass(frozen=True, slots=True)
class EventStream:
    """Reads events in batches and sends them, with comments while there are none."""

    pulse: Pulse
    heartbeat_seconds: float
    read: Callable[[int], tuple[list[JobEvent], bool]]

    async def lines(self, job_id: str, after: int) -> AsyncIterator[str]:
        """Give the stream's text until the job ends or the server stops."""
        yield "retry: 1000\n"  # no blank line: it belongs to the first event
        with self.pulse.listen(job_id) as listener:
            async for text in self._events(listener, after):
                yield text

    async def _events(self, listener: Listener, after: int) -> AsyncIterator[str]:
        while not self.pulse.is_stopped:
            listener.hold()
            events, has_more = await to_thread.run_sync(self.read, after)
            if events:
                yield "".join(map(_as_text, events))
                after = events[-1].id
            elif not has_more:
                return
            else:
                async for comment in self._until_woken(listener):
                    yield comment

    async def _until_woken(self, listener: Listener) -> AsyncIterator[str]:
        """Give comments, which keep the connection open, while nothing happens to the job."""
        while not await listener.wait(self.heartbeat_seconds):
            yield ": still here\n\n"


def _as_text(event: JobEvent) -> str:
    return f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"
