"""Files that are read for somebody else: regular ones, of bounded size, inside the given folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.manifest import MAX_MANIFEST_BYTES, Manifest

__all__ = ["MOST_TEXT_BYTES", "belongs_to", "read_given", "read_manifest"]

MOST_TEXT_BYTES: Final = 2**30


def read_given(path: Path, most_bytes: int = MOST_TEXT_BYTES) -> bytes:
    """Return the bytes of a file that somebody named.

    InvalidRequestError for what is no regular file, such as a device or a pipe, which could be read
    for ever, and for what is larger than `most_bytes`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _refused(path, f"{type(error).__name__}: {error}", "a readable file") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _refused(path, "no regular file", "a regular file, not a device or a pipe")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(most_bytes + 1)  # files under /proc say that they are empty
    if len(data) > most_bytes:
        raise _refused(path, f"more than {most_bytes} bytes", f"at most {most_bytes}")
    return data


def read_manifest(path: Path) -> Manifest:
    """Return a manifest that somebody gave; InvalidRequestError for what is none."""
    return Manifest.from_bytes(read_given(path, MAX_MANIFEST_BYTES), where=str(path))


def belongs_to(path: Path, folder: Path) -> bool:
    """Whether `path`, its links followed, is a regular file of the model in `folder`.

    A model in the Hub's cache is a folder of links into the `blobs` beside it.
    """
    root = folder.resolve()
    roots = [root]
    if root.parent.name == "snapshots":
        roots.append(root.parent.parent / "blobs")
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    return target.is_file() and any(target.is_relative_to(one) for one in roots)


def _refused(path: Path, found: str, expected: str) -> InvalidRequestError:
    return InvalidRequestError(
        where=str(path)[:200],
        found=found[:200],
        expected=expected,
        remedy="give the path of a plain text file",
    )
