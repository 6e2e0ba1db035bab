"""`bitbudget devices`: the machines that `--device` knows."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from bitbudget.app.cli.options import Json
from bitbudget.app.cli.output import say

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.core.devices import Device

__all__ = ["devices"]


def devices(*, as_json: Json = False) -> None:
    """List the devices by name, with what a GPU may keep resident and the bandwidth."""
    from bitbudget.app.core.devices import DEVICES

    known = sorted(DEVICES.values(), key=lambda d: (d.title.split(",")[0], d.memory_bytes))
    document = {"devices": [asdict(found) for found in known]}
    say(document, as_json=as_json, render=lambda console: _print(console, known))


def _print(console: Console, known: list[Device]) -> None:
    from bitbudget.app.cli.tables import listing
    from bitbudget.app.core.sizes import format_size

    rows = [
        (
            found.name,
            found.title,
            format_size(found.working_set_bytes),
            f"{format_size(int(found.bandwidth_bytes_per_second))}/s",
        )
        for found in known
    ]
    console.print(listing(("name", "device", "for the GPU", "bandwidth"), rows, copied=1))
