"""Run Python with the fast BLAS: `python -m bitbudget.workers.native.preload -m pytest tests`."""

from __future__ import annotations

import os
import sys

from bitbudget.workers.native.blas import preload_environment

__all__ = ["main"]


def main() -> None:
    """Replace this process by the same Python with the given arguments and LD_PRELOAD set."""
    os.execve(  # noqa: S606 - the interpreter that runs this, with the caller's own arguments
        sys.executable, [sys.executable, *sys.argv[1:]], preload_environment(os.environ)
    )


if __name__ == "__main__":
    main()
