"""A process that ends with the one that started it."""

from __future__ import annotations

import os
import threading
import time
from typing import Final

__all__ = ["end_with_parent"]

_CHECK_SECONDS: Final = 0.5


def end_with_parent() -> None:
    """End this process soon after its parent, however that ends."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
