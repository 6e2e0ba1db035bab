"""The Mac that commands and pages answer for when none is named: `bitbudget doctor --remember`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Final

from bitbudget.app.core.devices import DEVICES, device
from bitbudget.app.core.errors import InvalidRequestError

__all__ = ["detected_device", "remember_device", "remembered_device"]

_FILE: Final = "device.json"
_SYSCTL: Final = ("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string")


def remembered_device(home: Path) -> str | None:
    """Return the name that was kept in `home`, the folder for state; None for none."""
    try:
        name = json.loads((home / _FILE).read_bytes())["device"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if name in DEVICES else None


def remember_device(name: str, home: Path) -> Path:
    """Keep the name of a device; return the file. Raises InvalidRequestError for an unknown one."""
    file = home / _FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"device": device(name).name}) + "\n", encoding="utf-8")
    return file


def detected_device() -> str:
    """Return the name of the Mac that this runs on.

    Raises InvalidRequestError on other machines, and for a Mac that is not known.
    """
    found = f"{platform.system()} on {platform.machine()}"
    if sys.platform == "darwin":
        chip = subprocess.run(_SYSCTL, capture_output=True, text=True, check=False).stdout.strip()
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        for known in DEVICES.values():
            if known.title.split(",")[0] == chip and known.memory_bytes == memory:
                return known.name
        found = f"{chip} with {memory:,} bytes"
    raise InvalidRequestError(
        where="--remember",
        found=found,
        expected="a Mac that bitbudget devices lists",
        remedy="name one: bitbudget doctor --remember --device m4-pro-24gb",
    )
