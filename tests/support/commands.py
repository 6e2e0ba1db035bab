"""Commands of bitbudget as processes of their own."""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["interruptible"]

_PROGRAM: Final = (
    "import signal\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from bitbudget.app.cli.main import main\n"
    "main()"
)


def interruptible(*words: str) -> list[str]:
    """Return the command line of `bitbudget WORDS`, which SIGINT interrupts.

    A process that a shell started in the background has it ignored, and so have its children.
    """
    return [sys.executable, "-c", _PROGRAM, *words]
