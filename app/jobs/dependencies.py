"""What routes of jobs ask of the server."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends

from bitbudget.app.http.dependencies import provided
from bitbudget.app.jobs.cached_polls import JobPolls
from bitbudget.app.jobs.checkpoints import Checkpoints
from bitbudget.app.jobs.service import JobService
from bitbudget.app.jobs.stream import EventStreams

__all__ = ["CheckpointStore", "Jobs", "Polls", "Streams"]

CheckpointStore = Annotated[Checkpoints, Depends(provided(Checkpoints))]
Jobs = Annotated[JobService, Depends(provided(JobService))]
Polls = Annotated[JobPolls, Depends(provided(JobPolls))]
Streams = Annotated[EventStreams, Depends(provided(EventStreams))]
