"""What a model is called: told by what was asked for, not by what was seen before."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bitbudget.app.core.hub_id import HubId

__all__ = ["OwnName", "asked_name", "own_name"]

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


def asked_name(model: str, stated: str | None, stored: OwnName) -> OwnName:
    """Return how to call a model that somebody asks for, whose weights are `stored` already.

    `model` is a folder, a Hub id or the id of a model that was here, which keeps its name; `stated`
    is the name that the request gives. The revision of a Hub id is its commit where that is known.
    """
    if HubId.matches(model):
        asked = HubId.parse(model)
        same = stored.name == asked.repository
        revision = stored.revision if same else asked.revision or "main"
        return OwnName(stated or asked.repository, revision)
    if "/" not in model:
        return OwnName(stated or stored.name, stored.revision)
    own = own_name(Path(model))
    return OwnName(stated or own.name, own.revision)
