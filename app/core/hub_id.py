"""Names of models on the Hugging Face Hub, recognised by their pattern alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from bitbudget.app.core.errors import InvalidRequestError

__all__ = ["HubId", "HubPlace"]

_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_NEVER: Final = ("--", "..", "//")
_LAST: Final = (".", "-", "/", ".git")


@dataclass(frozen=True, slots=True)
class HubId:
    """`org/name[@revision]`: a repository of the Hub and a branch, tag or commit of it."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str, where: str = "model") -> HubId:
        """Read `org/name[@revision]`; InvalidRequestError for any other text.

        The rules are the Hub's own: letters, digits, `.`, `_` and `-`, no `--` or `..`, no `.`,
        `-` or `.git` at the end.
        """
        repository, mark, revision = text.partition("@")
        accepted = _REPOSITORY.fullmatch(repository) and all(map(_is_clean, repository.split("/")))
        if accepted and (not mark or (_REVISION.fullmatch(revision) and _is_clean(revision))):
            return cls(repository, revision if mark else None)
        raise InvalidRequestError(
            where=where,
            found=repr(text)[:120],
            expected="a folder that exists, or a Hub id org/name[@revision]",
            remedy="check the spelling",
        )

    @classmethod
    def matches(cls, text: str) -> bool:
        """Whether `text` reads as a Hub id."""
        try:
            cls.parse(text)
        except InvalidRequestError:
            return False
        return True

    def __str__(self) -> str:
        return self.repository if self.revision is None else f"{self.repository}@{self.revision}"


_DATASETS: Final = "datasets/"


@dataclass(frozen=True, slots=True)
class HubPlace:
    """`[datasets/]org/name[@revision]`: a repository of models, or one of data.

    >>> HubPlace.parse("datasets/me/measurements").kind
    'dataset'
    """

    id: HubId
    kind: Literal["model", "dataset"] = "model"

    @classmethod
    def parse(cls, text: str, where: str = "repository") -> HubPlace:
        """Read the text; InvalidRequestError for anything else."""
        is_dataset = text.startswith(_DATASETS) and text.count("/") > 1
        found = HubId.parse(text.removeprefix(_DATASETS) if is_dataset else text, where)
        return cls(found, "dataset" if is_dataset else "model")

    @property
    def repository(self) -> str:
        """The name without a revision, `datasets/` before it where it is one of data."""
        return f"{_DATASETS if self.kind == 'dataset' else ''}{self.id.repository}"


def _is_clean(part: str) -> bool:
    return not part.endswith(_LAST) and not any(never in part for never in _NEVER)
