"""Follow-ups: what the worker that holds a finished job's checkpoint is asked to do with it."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.config import JsonDict

from bitbudget.app.contract.messages import Flag, Line, Message
from bitbudget.app.contract.problems import Problem
from bitbudget.app.contract.reports import Digest, UploadResult
from bitbudget.app.contract.texts import Prompt, TextComparison, Tokens
from bitbudget.app.core.requests import JobRequest

__all__ = [
    "CompareText",
    "FollowupClaim",
    "FollowupEnd",
    "FollowupGrant",
    "FollowupRenewal",
    "FollowupRequest",
    "FollowupResult",
    "Publish",
]


_REPOSITORY: Final = "^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*$"
Repository = Annotated[
    Line,
    Field(max_length=96, pattern=_REPOSITORY),
    WithJsonSchema({"type": "string", "maxLength": 96, "pattern": _REPOSITORY}),
]
"""namespace/name of a repository on the Hub."""


class CompareText(Message):
    """Let original and checkpoint continue a prompt."""

    kind: Literal["compare-text"]
    prompt: Prompt
    tokens: Tokens = 64


class Publish(Message):
    """Upload the checkpoint to the Hub, with the worker's own token.

    A worker publishes only below the namespace that it was started with (`--publish-to`).
    """

    kind: Literal["publish"]
    repository: Repository = Field(description="namespace/name, created when it does not exist.")
    private: Flag = True

    @property
    def namespace(self) -> str:
        """The user or organisation."""
        return self.repository.partition("/")[0]


FollowupRequest = Annotated[CompareText | Publish, Field(discriminator="kind")]
FollowupResult = TextComparison | UploadResult


class FollowupClaim(Message):
    """A worker asks whether anything is to be done with the checkpoints it made."""

    worker_id: str = Field(max_length=64)


class FollowupRenewal(Message):
    """The worker is still at it."""

    worker_id: str = Field(max_length=64)


_ONE_OF_BOTH: Final[JsonDict] = {
    "oneOf": [
        {"required": [name], "properties": {name: {"type": "object"}}}
        for name in ("result", "problem")
    ]
}


class FollowupGrant(Message):
    """A follow-up, for one worker and one attempt; `request` is that of the job."""

    followup_id: str
    job_id: str
    request: JobRequest
    manifest_sha256: Digest
    asked: FollowupRequest
    renew_seconds: float


class FollowupEnd(Message):
    """What came of it: a result, or a problem."""

    model_config = ConfigDict(json_schema_extra=_ONE_OF_BOTH)

    worker_id: str = Field(max_length=64)
    result: FollowupResult | None = None
    problem: Problem | None = None

    @model_validator(mode="after")
    def _has_one(self) -> FollowupEnd:
        if (self.result is None) == (self.problem is None):
            msg = "give a result or a problem"
            raise ValueError(msg)
        return self
