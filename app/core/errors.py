"""The tree of errors a user can meet.

    BitbudgetError                    1 / 500
    |-- InvalidInputError             2 / 422   something the user gave is wrong
    |   |-- InvalidModelError                   a model folder or one of its files
    |   |-- InvalidRequestError                 an option, a size, a glob, a document
    |   `-- UnsupportedModelError               a model mlx-lm has no class for
    |-- AlreadyQuantizedError         1 / 422   weights that somebody quantized before
    |-- InfeasibleBudgetError         3 / 422   names the smallest feasible size
    |-- TooLittleTimeError            3 / 422   names the minutes of the least effort
    |-- NotFoundError                 1 / 404
    |-- ConflictError                 1 / 409
    |-- DiskFullError                 1 / 507
    |-- LostLeaseError                1 / 410
    |-- HubAccessError                1 / 403   the Hub wants a token, or another one
    `-- HubUnavailableError           1 / 503   the Hub, or the way to it, failed

Numbers: exit code of the command line / HTTP status.
InvalidInputError is a ValueError too, so that pydantic reports it with its place.
A class's `template` is its message: `{field}` is filled from the instance's typed fields.
"""

from __future__ import annotations

import errno
import re
from typing import Any, ClassVar, Final

__all__ = [
    "NO_ROOM",
    "AlreadyQuantizedError",
    "BitbudgetError",
    "ConflictError",
    "DiskFullError",
    "HubAccessError",
    "HubUnavailableError",
    "InfeasibleBudgetError",
    "InvalidInputError",
    "InvalidModelError",
    "InvalidRequestError",
    "LostLeaseError",
    "ModelClassNeededError",
    "NotFoundError",
    "TooLittleTimeError",
    "UnsupportedModelError",
    "UnusableDatabaseError",
]

NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a disk, a quota or the largest size of a file is reached."""


class BitbudgetError(Exception):
    """What every error of bitbudget is; `template` is its message, filled from typed fields."""

    template: ClassVar[str] = "bitbudget could not finish: {reason}."
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        super().__init__(self.template.format(**fields))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the constructor: an error comes back whole from another process."""
        return _rebuilt, (type(self), self.args, self.__dict__)

    @classmethod
    def slug(cls) -> str:
        """Return the class name as a problem type: `LostLeaseError` -> `lost-lease`."""
        name = cls.__name__.removesuffix("Error")
        return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()

    @classmethod
    def title(cls) -> str:
        """Return the class name as words: `InfeasibleBudgetError` -> `Infeasible budget`."""
        return cls.slug().replace("-", " ").capitalize()


def _rebuilt(
    kind: type[BitbudgetError], arguments: tuple[Any, ...], state: dict[str, Any]
) -> BitbudgetError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class InvalidInputError(BitbudgetError, ValueError):
    """Something the user gave is wrong."""

    template = "{where}: found {found}, expected {expected}; {remedy}."
    status = 422
    exit_code = 2

    def __init__(self, *, where: str, found: str, expected: str, remedy: str) -> None:
        super().__init__(where=where, found=found, expected=expected, remedy=remedy)


class UnusableDatabaseError(BitbudgetError):
    """The database is damaged, of another version, or cannot be written."""

    template = "The database {database} cannot be used: {reason}; {remedy}."
    status = 503


class InvalidModelError(InvalidInputError):
    """A model folder or one of its files is wrong."""

    exit_code = 1


class InvalidRequestError(InvalidInputError):
    """An option, a size, a glob or a document is wrong."""


class UnsupportedModelError(BitbudgetError):
    """A model is of a type that mlx-lm has no class for."""

    template = "Model type '{model_type}' is not supported: {reason}; {remedy}."
    status = 422

    def __init__(self, *, model_type: str, reason: str, remedy: str) -> None:
        super().__init__(model_type=model_type, reason=reason, remedy=remedy)


class ModelClassNeededError(BitbudgetError):
    """The modules of a model are told by mlx-lm's class alone, and it is not installed here."""

    template = "A model of type '{model_type}' needs mlx-lm to be read: {reason}; {remedy}."
    status = 422

    def __init__(self, *, model_type: str, reason: str, remedy: str) -> None:
        super().__init__(model_type=model_type, reason=reason, remedy=remedy)


class AlreadyQuantizedError(BitbudgetError):
    """A model is quantized already."""

    template = (
        "The weights are {layout}: quantized already, and errors would add up unseen; {remedy}."
    )
    status = 422

    def __init__(
        self,
        *,
        layout: str,
        remedy: str = "start from the original bf16, fp16 or fp32 checkpoint",
    ) -> None:
        super().__init__(layout=layout, remedy=remedy)


class InfeasibleBudgetError(BitbudgetError):
    """A budget is below the smallest feasible size."""

    template = (
        "{budget_bytes:,} bytes are too few: the smallest feasible {binding} takes"
        " {minimum_bytes:,} bytes."
    )
    status = 422
    exit_code = 3

    def __init__(
        self, *, budget_bytes: int, minimum_bytes: int, binding: str = "checkpoint"
    ) -> None:
        super().__init__(budget_bytes=budget_bytes, minimum_bytes=minimum_bytes, binding=binding)
        self.budget_bytes = budget_bytes
        self.minimum_bytes = minimum_bytes


class TooLittleTimeError(BitbudgetError):
    """No effort fits the time that a request allows."""

    template = (
        "{max_minutes:.3g} minutes: too few, effort {effort} takes about {needed_minutes:.1f} on"
        " this machine; allow as many, or measure on a faster one."
    )
    status = 422
    exit_code = 3

    def __init__(self, *, max_minutes: float, needed_minutes: float, effort: str) -> None:
        super().__init__(max_minutes=max_minutes, needed_minutes=needed_minutes, effort=effort)


class NotFoundError(BitbudgetError):
    """Nothing has this name."""

    template = "There is no {what} '{name}'."
    status = 404

    def __init__(self, *, what: str, name: str) -> None:
        super().__init__(what=what, name=name)


class ConflictError(BitbudgetError):
    """Something is not in the state that a request needs."""

    template = "{what} '{name}': {reason}; {remedy}."
    status = 409

    def __init__(self, *, what: str, name: str, reason: str, remedy: str) -> None:
        super().__init__(what=what, name=name, reason=reason, remedy=remedy)


class DiskFullError(BitbudgetError):
    """A disk has no room for what must be written."""

    template = (
        "{where}: no room for {needed_bytes} bytes, {free_bytes} are free; free some and run again."
    )
    status = 507

    def __init__(self, *, where: str, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(where=where, needed_bytes=needed_bytes, free_bytes=free_bytes)


class LostLeaseError(BitbudgetError):
    """An attempt no longer holds its job."""

    template = "Lease '{lease}' attempt {attempt} no longer holds the job: {reason}."
    status = 410

    def __init__(self, *, lease: str, attempt: int, reason: str) -> None:
        super().__init__(lease=lease, attempt=attempt, reason=reason)


class HubAccessError(BitbudgetError):
    """The Hub wants a token, or another one."""

    template = "The Hub refused {what}: {reason}; {remedy}."
    status = 403

    def __init__(self, *, what: str, reason: str, remedy: str) -> None:
        super().__init__(what=what, reason=reason, remedy=remedy)


class HubUnavailableError(BitbudgetError):
    """The Hub, or the way to it, failed."""

    template = "The Hub did not answer for {what}: {reason}; {remedy}."
    status = 503

    def __init__(
        self, *, what: str, reason: str, remedy: str, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(what=what, reason=reason, remedy=remedy)
        self.retry_after_seconds = retry_after_seconds
