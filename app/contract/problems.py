"""Problems (RFC 9457): what went wrong, as server, worker and command line tell it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StrictStr,
    StringConstraints,
    model_validator,
)
from pydantic.config import JsonDict

from bitbudget.app.contract.messages import (
    Amount,
    Flag,
    Integer,
    Line,
    Message,
    Real,
    Text,
    storable_text,
)

__all__ = ["Problem", "ProblemFields"]

_MOST_FIELDS: Final = 64
_LARGEST_INTEGER: Final = 2**53
_LARGEST_FLOAT: Final = 1e300


def _not_an_integer(value: object) -> object:
    """Refuse an integer that is too large to be one, instead of rounding it."""
    if isinstance(value, int):
        msg = "not a number with a fraction"
        raise ValueError(msg)  # noqa: TRY004 - the error that pydantic reports
    return value


Fraction = Annotated[Real, BeforeValidator(_not_an_integer)]
Scalar = Annotated[StrictStr, StringConstraints(max_length=8192, pattern=r"^[^\x00]*$")] | (
    Flag | Integer | Fraction | None
)


_NAME: Final = r"^[A-Za-z0-9_.-]{1,64}$"
_BOUNDED: Final[JsonDict] = {"maxProperties": _MOST_FIELDS, "propertyNames": {"pattern": _NAME}}


class ProblemFields(Message):
    """Further members of a problem, which depend on its type: text, numbers, true or false."""

    model_config = ConfigDict(
        extra="allow", frozen=True, allow_inf_nan=False, json_schema_extra=_BOUNDED
    )
    __pydantic_extra__: dict[str, Scalar]

    minimum_bytes: Amount | None = Field(
        None,
        description="Of infeasible-budget: the smallest feasible size.",
        exclude_if=lambda value: value is None,
    )

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        names = self.__pydantic_extra__
        if len(names) > _MOST_FIELDS or not all(re.fullmatch(_NAME, name) for name in names):
            msg = f"at most {_MOST_FIELDS} fields, each with a name of {_NAME}"
            raise ValueError(msg)
        return self

    @classmethod
    def of(cls, fields: Mapping[str, object]) -> Self:
        """Return the fields of an error; what is no bounded number or text is told as text."""
        kept = list(fields.items())[:_MOST_FIELDS]
        return cls.model_validate({k: _scalar(v) for k, v in kept if re.fullmatch(_NAME, k)})


def _scalar(value: object) -> str | float | bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= _LARGEST_INTEGER:
        return value
    if isinstance(value, float) and abs(value) <= _LARGEST_FLOAT:
        return value
    return storable_text(str(value))


class Problem(Message):
    """An RFC 9457 problem, as the server answers it and a worker reports it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Line
    title: Line
    status: Integer
    detail: Text
    fields: ProblemFields = ProblemFields()
    exit_code: Integer = 1

    @classmethod
    def about(
        cls,
        slug: str,
        detail: str,
        *,
        title: str | None = None,
        status: int = 500,
        fields: Mapping[str, object] | None = None,
        exit_code: int = 1,
    ) -> Self:
        """Return the problem of type `slug`; text is cleaned and cut so that it can be stored."""
        return cls(
            type=f"urn:bitbudget:problem:{slug}",
            title=title or slug.replace("-", " ").capitalize(),
            status=status,
            detail=storable_text(detail),
            fields=ProblemFields.of(fields or {}),
            exit_code=exit_code,
        )
