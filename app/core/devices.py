"""Apple chips: memory, bandwidth and the memory that a GPU may use by default.

The numbers and their sources stand in `devices.json` beside this file, with the public pages that
confirm them and what none of those does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from typing import Any, Final

from bitbudget.app.core.errors import InvalidRequestError

__all__ = ["DEVICES", "Device", "device"]

_MIB: Final = 2**20
_GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class Device:
    """A chip with an amount of memory.

    `working_set_bytes` is what Metal lets a GPU keep resident with macOS's default limit
    (`iogpu.wired_limit_mb`). Bandwidth is what Apple publishes, in units of 10^9 bytes.
    """

    name: str
    title: str
    memory_bytes: int
    bandwidth_bytes_per_second: float
    working_set_bytes: int
    source: str


def _working_set_mib(rules: Mapping[str, Any], memory_gib: int) -> int:
    reported = rules["reported_mib"].get(str(memory_gib))
    if reported is not None:
        return int(reported)
    is_small = memory_gib <= rules["small_up_to_gib"]
    part, whole = rules["small_share"] if is_small else rules["large_share"]
    return int(memory_gib * 1024 * part // whole)


def _source(chip: Mapping[str, Any]) -> str:
    """Return where the numbers come from, and which of them no public page confirmed."""
    doubt = chip["unconfirmed"]
    return (
        f"{chip['source']} (not confirmed by a second source: {doubt})" if doubt else chip["source"]
    )


def _load() -> dict[str, Device]:
    table = json.loads(
        files("bitbudget.app.core").joinpath("devices.json").read_text(encoding="utf-8")
    )
    devices = {}
    for chip in table["chips"]:
        for configuration in chip["configurations"]:
            memory_gib = configuration["memory_gib"]
            name = f"{chip['name']}-{memory_gib}gb"
            devices[name] = Device(
                name=name,
                title=f"{chip['title']}, {memory_gib} GB",
                memory_bytes=memory_gib * _GIB,
                bandwidth_bytes_per_second=configuration["bandwidth_gb_per_second"] * 1e9,
                working_set_bytes=_working_set_mib(table["working_set"], memory_gib) * _MIB,
                source=_source(chip),
            )
    return devices


DEVICES: Final[Mapping[str, Device]] = _load()
"""Every device by its name, `m4-pro-24gb`."""


def device(name: str) -> Device:
    """Return the device called `name`; InvalidRequestError offers the nearest names."""
    found = DEVICES.get(name.lower())
    if found is not None:
        return found
    near = get_close_matches(name.lower(), DEVICES, n=3) or ["m4-pro-24gb"]
    raise InvalidRequestError(
        where="device",
        found=repr(name),
        expected="a chip and its memory, as bitbudget devices and GET /v1/devices list them",
        remedy=f"write for example {', '.join(near)}",
    )
