"""Run a long-lived process of bitbudget in the foreground."""

from __future__ import annotations

import signal
import subprocess

__all__ = ["attend"]


def attend(command: list[str], environment: dict[str, str]) -> int:
    """Run `command` until it ends and return its exit status.

    An interrupt from the terminal reaches it anyway, a SIGTERM is passed on.
    """
    with subprocess.Popen(command, env=environment) as agent:
        signal.signal(signal.SIGTERM, lambda *_: agent.terminate())
        while True:
            try:
                return agent.wait()
            except KeyboardInterrupt:
                continue
