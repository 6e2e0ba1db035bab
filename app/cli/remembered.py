"""The Mac that commands and pages answer for when none is named: `bitbudget doctor --remember`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Final

from bitbudget.app.core.errors import InvalidRequestError

__all__ = ["detected_device", "remember_device", "remembered_device"]

_FILE: Final = "device.json"
_SYSCTL: Final = ("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string")


def _file(home: Path | None) -> Path:
    if home is not None:
        return home / _FILE
    from bitbudget.app.server.settings import Settings

    return Settings().home_folder / _FILE


def remembered_device(home: Path | None = None) -> str | None:
    """Return the name that was kept in `home`, BITBUDGET_HOME by default; None for none."""
    from bitbudget.app.core.devices import DEVICES

    try:
        name = json.loads(_file(home).read_bytes())["device"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if name in DEVICES else None


def remember_device(name: str, home: Path | None = None) -> Path:
    """Keep the name of a device; return the file. Raises InvalidRequestError for an unknown one."""
    from bitbudget.app.core.devices import device

    file = _file(home)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"device": device(name).name}) + "\n", encoding="utf-8")
    return file


def detected_device() -> str:
    """Return the name of the Mac that this runs on.

    Raises InvalidRequestError on other machines, and for a Mac that is not known.
    """
    from bitbudget.app.core.devices import DEVICES

    found = f"{platform.system()} on {platform.machine()}"
    if sys.platform == "darwin":
        chip = subprocess.run(_SYSCTL, capture_output=True, text=True, check=False).stdout.strip()
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        for device in DEVICES.values():
            if device.title.split(",")[0] == chip and device.memory_bytes == memory:
                return device.name
        found = f"{chip} with {memory:,} bytes"
    raise InvalidRequestError(
        where="--remember",
        found=found,
        expected="a Mac that bitbudget devices lists",
        remedy="name one: bitbudget doctor --remember --device m4-pro-24gb",
    )
