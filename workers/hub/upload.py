"""Publishing a finished checkpoint: one commit with weights, manifest and model card."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from huggingface_hub import CommitOperationAdd

from bitbudget.app.core.errors import BitbudgetError, HubUnavailableError, InvalidModelError
from bitbudget.app.core.hub_id import HubId
from bitbudget.app.core.manifest import Manifest
from bitbudget.workers.files.limits import reading
from bitbudget.workers.hub.client import Hub
from bitbudget.workers.hub.failures import hub_call
from bitbudget.workers.models.given import read_manifest
from bitbudget.workers.quantize.companions import OUR_CODE

__all__ = ["Published", "ask", "publish"]

T = TypeVar("T")

_PUBLISHED: Final = frozenset(
    {".safetensors", ".json", ".jinja", ".md", ".model", ".tiktoken", ".txt", ""}
)
"""Suffixes that are uploaded: data and text, no code but our own and no pickles."""


@dataclass(frozen=True, slots=True)
class Published:
    """Where a checkpoint went: `revision` is the commit."""

    repository: str
    revision: str
    url: str
    files: int
    nbytes: int


def publish(hub: Hub, folder: Path, repository: str, *, private: bool = True) -> Published:
    """Upload the checkpoint in `folder` to `repository`, created when it does not exist.

    Large files go first and one commit makes all of them visible, so that nobody sees half a
    checkpoint. Files that are there already are not sent again.

    Raises InvalidModelError for a folder that is no finished checkpoint, HubAccessError without a
    token that may write, HubUnavailableError when the Hub or the network fails.
    """
    name = HubId.parse(repository, "repository").repository
    with reading():
        manifest = _read_manifest(folder)
        files = _published_files(folder)
    operations = [CommitOperationAdd(path.name, str(path)) for path in files]
    ask(hub, name, lambda: hub.api.create_repo(name, private=private, exist_ok=True))
    commit = ask(
        hub,
        name,
        lambda: hub.api.create_commit(
            name,
            operations,
            commit_message=f"{manifest.file_bytes} bytes by bitbudget",
            commit_description=f"Manifest {manifest.sha256} of {manifest.model.name} "
            f"at revision {manifest.model.revision}.",
        ),
    )
    nbytes = sum(path.stat().st_size for path in files)
    return Published(name, commit.oid, str(commit.commit_url), len(files), nbytes)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / "manifest.json"
    if not path.is_file():
        raise _unfinished(folder, "no manifest.json")
    manifest = read_manifest(path)
    nbytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if nbytes != manifest.file_bytes:
        raise _unfinished(
            folder, f"{nbytes} bytes of weights for a manifest of {manifest.file_bytes}"
        )
    return manifest


def _published_files(folder: Path) -> list[Path]:
    files = sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.is_symlink() and not path.name.startswith(".")
    )
    if not any(path.name == "README.md" for path in files):
        raise _unfinished(folder, "no README.md")
    return [path for path in files if path.suffix in _PUBLISHED or _is_our_code(path)]


def _is_our_code(path: Path) -> bool:
    """Whether this is code of a checkpoint that needs our loader, as this package has it."""
    ours = OUR_CODE.get(path.name)
    return ours is not None and path.read_bytes() == ours.read_bytes()


def _unfinished(folder: Path, found: str) -> InvalidModelError:
    return InvalidModelError(
        where=str(folder),
        found=found,
        expected="a finished checkpoint with manifest.json, README.md and all its weights",
        remedy="make it with bitbudget quantize or bitbudget run",
    )


def ask(hub: Hub, name: str, call: Callable[[], T]) -> T:
    """Call the Hub; what its library raises besides HTTP errors becomes HubUnavailableError."""
    try:
        return hub_call(hub.retries, name, call)
    except BitbudgetError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        logging.getLogger(__name__).debug("upload to %s failed", name, exc_info=True)
        cause = error.__cause__ or error
        raise HubUnavailableError(
            what=f"an upload to {name}",
            reason=f"{type(cause).__name__}: {cause}"[:300],
            remedy="start it again; files that arrived are not sent twice",
        ) from error
