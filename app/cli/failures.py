"""Every failure a user can meet, as one problem document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bitbudget.app.cli.output import Document, problem_document
from bitbudget.app.core.errors import BitbudgetError, InvalidRequestError
from bitbudget.app.core.wording import expected_words
from bitbudget.distribution import install_hint

if TYPE_CHECKING:
    from pydantic import ValidationError

    from bitbudget.app.contract.problems import Problem

__all__ = [
    "ChildFailedError",
    "FileAccessError",
    "JobCancelledError",
    "MissingExtraError",
    "ServerError",
    "problem_of",
    "refusal_of",
]


class MissingExtraError(BitbudgetError):
    """A command needs packages of an extra that is not installed."""

    template = "{command} needs the [{extra}] extra: {remedy}."
    status = 500

    def __init__(self, *, command: str, extra: str) -> None:
        super().__init__(command=command, extra=extra, remedy=install_hint(extra))


class ServerError(BitbudgetError):
    """A server does not answer as a bitbudget server does."""

    template = "Server {server}: {reason}; {remedy}."

    def __init__(self, *, server: str, reason: str, remedy: str) -> None:
        super().__init__(server=server, reason=reason, remedy=remedy)


class FileAccessError(BitbudgetError):
    """The system refuses a file."""

    template = "{file}: {reason}."

    def __init__(self, *, file: str, reason: str) -> None:
        super().__init__(file=file, reason=reason)


class LittleMemoryError(BitbudgetError):
    """The system gives this process no more memory."""

    template = "There is not the memory that this takes; end other programs, or raise the limit."


class JobCancelledError(BitbudgetError):
    """A job that was followed was cancelled."""

    template = "Job '{job}' was cancelled: {kept}."

    def __init__(self, *, job: str, kept: str) -> None:
        super().__init__(job=job, kept=kept)


class ChildFailedError(BitbudgetError):
    """The child process answered with a problem, or died."""

    template = "{detail}."

    def __init__(self, problem: Problem, **more: str) -> None:
        super().__init__(detail=problem.detail.rstrip("."))
        told = problem.model_dump(mode="json", exclude={"fields"})
        self.document = problem.fields.model_dump(mode="json") | told | more


def problem_of(error: Exception) -> Document | None:
    """Return the problem that `error` is for a user; None for a defect of ours."""
    if isinstance(error, ChildFailedError):
        return error.document
    if isinstance(error, BitbudgetError):
        return problem_document(error)
    if isinstance(error, OSError) and error.strerror:
        where = str(error.filename or "the system")
        return problem_document(FileAccessError(file=where, reason=error.strerror))
    if isinstance(error, MemoryError):
        return problem_document(LittleMemoryError())
    return _from_library(error)


def _from_library(error: Exception) -> Document | None:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return problem_document(refusal_of(error))
    return None


def refusal_of(error: ValidationError, remedy: str = "see --help") -> BitbudgetError:
    """Return the error of ours that pydantic's first complaint is, or is caused by."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    return cause if isinstance(cause, BitbudgetError) else _invalid(first, remedy)


def _invalid(first: Any, remedy: str) -> InvalidRequestError:
    place = ".".join(str(part) for part in first["loc"]) or "options"
    return InvalidRequestError(
        where=place,
        found=repr(first.get("input"))[:80] if first["loc"] else "none that fits together",
        expected=expected_words(first["msg"]),
        remedy=remedy,
    )
