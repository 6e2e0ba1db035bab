"""What people write on a job to find it again: tags and a note, which no worker reads."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bitbudget.app.core.requests import JobRequest

__all__ = [
    "LONGEST_NOTE",
    "LONGEST_TAG",
    "NO_LABELS",
    "JobLabels",
    "JobSubmission",
    "LabelChange",
    "Tag",
]

LONGEST_TAG: Final = 48
LONGEST_NOTE: Final = 2000
_MOST_TAGS: Final = 16

Tag = Annotated[
    str, Field(min_length=1, max_length=LONGEST_TAG, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")
]


def _tidy(tags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(set(tags)))


Tags = Annotated[tuple[Tag, ...], Field(max_length=_MOST_TAGS), AfterValidator(_tidy)]
"""Sorted, each once."""
Note = Annotated[str, Field(max_length=LONGEST_NOTE, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$")]
"""Text of any number of lines."""


class JobLabels(BaseModel):
    """The tags and the note of a job.

    JobLabels(tags=("release", "m4"), note="for the blog post")
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tags: Tags = ()
    note: Note = ""


NO_LABELS: Final = JobLabels()


class LabelChange(BaseModel):
    """What is to change of a job's tags and note; what is left out, or null, stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tags: Tags | None = Field(None, description="Take the place of all that there were.")
    note: Note | None = Field(None, description="Takes the place of the one that there was.")


class JobSubmission(JobRequest):
    """A job with the tags and the note that it begins with."""

    tags: Tags = Field((), description="To find the job again: GET /v1/jobs?tag=.")
    note: Note = Field("", description="For whoever reads it; no worker does.")

    @property
    def labels(self) -> JobLabels:
        """Return tags and note."""
        return JobLabels(tags=self.tags, note=self.note)

    @property
    def request(self) -> JobRequest:
        """Return what the work is, without the labels."""
        return JobRequest.model_validate(self.model_dump(include=set(JobRequest.model_fields)))
