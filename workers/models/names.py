"""What a model is called: told by the folder that was given, not by what was seen before."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["OwnName", "own_name"]

LOCAL: Final = "local"
"""The revision of a folder that says nothing of one."""

_REPOSITORY: Final = re.compile(r"models--([^/]+?)--([^/]+)")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class OwnName:
    """Name and revision of a model, `org/name` and a commit where the folder tells them."""

    name: str
    revision: str


def own_name(folder: Path) -> OwnName:
    """Return how the model in `folder` is called.

    A snapshot of the Hub's cache, `models--org--name/snapshots/COMMIT`, is called `org/name`; any
    other folder by its own name, as it was given and not where a link leads.

        own_name(Path("models/tiny")) == OwnName("tiny", "local")
    """
    for path in (folder.absolute(), folder.resolve()):
        repository = _REPOSITORY.fullmatch(path.parent.parent.name)
        if repository and path.parent.name == "snapshots":
            revision = path.name if _COMMIT.fullmatch(path.name) else LOCAL
            return OwnName(f"{repository[1]}/{repository[2]}", revision)
    return OwnName(Path(folder.absolute()).name or folder.resolve().name, LOCAL)
