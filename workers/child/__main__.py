"""The process in which heavy work runs: one task on standard input, events on standard output.

MLX streams belong to a thread, so everything runs on this process's main thread. Standard output
carries events alone: what libraries print goes to standard error. The process starts itself anew
once, so that a fast BLAS is preloaded, and ends when its parent does.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from bitbudget.workers.native.blas import preload_environment

__all__ = ["main"]

_MARK: Final = "BITBUDGET_CHILD_PRELOADED"
_WITHOUT_BLAS: Final = "--without-blas"
"""Says that the task multiplies nothing: starting anew takes a fifth of a second."""


def main() -> int:
    """Run the task on standard input; return the exit code of the command line."""
    _preload()

    from bitbudget.workers.child.task import answer  # noqa: PLC0415, heavy imports come after the preload

    return answer()


def _preload() -> None:
    """Replace this process by one whose environment preloads BLAS, where that is of use."""
    if os.environ.get(_MARK) == "1" or _WITHOUT_BLAS in sys.argv:
        return
    environment = {**preload_environment(os.environ), _MARK: "1"}
    if environment.get("LD_PRELOAD") == os.environ.get("LD_PRELOAD"):
        return
    arguments = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, arguments, environment)  # noqa: S606, our own interpreter


if __name__ == "__main__":
    sys.exit(main())
