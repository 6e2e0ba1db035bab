"""Options for the tags and the note of a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bitbudget.app.jobs.labels import JobLabels, LabelChange

__all__ = ["Tags", "change_of", "labels_of"]

Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", help="A word to find the job by; may be given several times."),
]


def labels_of(tags: Sequence[str], note: str) -> JobLabels:
    """Return what a new job is labelled with."""
    from bitbudget.app.jobs.labels import JobLabels

    return JobLabels(tags=tuple(tags), note=note)


def change_of(tags: Sequence[str] | None, note: str | None) -> LabelChange:
    """Return what is to change of a job's labels; an empty tag stands for none."""
    from bitbudget.app.core.errors import InvalidRequestError
    from bitbudget.app.jobs.labels import LabelChange

    if tags is None and note is None:
        raise InvalidRequestError(
            where="label",
            found="neither --tag nor --note",
            expected="one of them",
            remedy='write --tag release, or --tag "" to take all tags away',
        )
    wanted = None if tags is None else tuple(tag for tag in tags if tag)
    return LabelChange(tags=wanted, note=note)
