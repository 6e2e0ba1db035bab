"""Whether a checkpoint can be written where the user wants it, before anything is measured."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bitbudget.app.core.errors import InvalidRequestError

__all__ = ["check_folder", "check_output"]

_MOST_NAME_BYTES: Final = 255 - len("..partial")
"""Most file systems take names of 255 bytes; the unfinished checkpoint is `.<name>.partial`."""


def check_output(output: Path) -> None:
    """Raise InvalidRequestError for an output folder that cannot be made, or not be loaded.

    mlx-lm finds weights with `glob`, for which brackets in a path are a set of characters.
    """
    if "[" in str(output):
        raise _unusable(
            output, "a bracket in the path", "a path in which mlx-lm finds files: no [ or ]"
        )
    if len(os.fsencode(output.name)) > _MOST_NAME_BYTES:
        found = f"a name of {len(os.fsencode(output.name))} bytes"
        raise _unusable(output, found, f"at most {_MOST_NAME_BYTES}")
    check_folder(output.absolute().parent, "output")


def check_folder(folder: Path, where: str) -> None:
    """Raise InvalidRequestError unless `folder` is one, or can be made, and be written to.

    Some file systems, such as /proc, say that they can be and refuse: it is tried.
    """
    try:
        nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        if not nearest.is_dir():
            raise _unusable(folder, f"{nearest}, which is no folder", "a folder", where)
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise _unusable(folder, f"{nearest}, which is not writable", "a folder", where)
        TemporaryDirectory(dir=nearest, prefix=".bitbudget-").cleanup()
    except OSError as error:
        reason = "a path that is too long" if error.errno == errno.ENAMETOOLONG else str(error)
        raise _unusable(folder, reason, "a folder", where) from error


def _unusable(path: Path, found: str, expected: str, where: str = "output") -> InvalidRequestError:
    return InvalidRequestError(
        where=f"{where} {str(path)[:200]}",
        found=found,
        expected=expected,
        remedy="choose another place",
    )
