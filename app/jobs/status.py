"""The states of a job and the kinds of its events."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["OPEN_STATUSES", "EventKind", "JobStatus"]


class JobStatus(StrEnum):
    """Where a job is in its life; cancelling is a flag beside it until the worker has stopped."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing can happen to the job any more."""
        return self not in OPEN_STATUSES


OPEN_STATUSES: Final = (JobStatus.QUEUED, JobStatus.RUNNING)


class EventKind(StrEnum):
    """What an event row records: a transition, or what the worker tells between two of them."""

    QUEUED = "queued"
    STARTED = "started"
    PROGRESS = "progress"
    ARTIFACT = "artifact"
    ANSWERED = "answered"
    LOG = "log"
    REQUEUED = "requeued"
    LABELLED = "labelled"
    CANCEL_REQUESTED = "cancel_requested"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
