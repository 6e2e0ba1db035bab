"""What the shell offers for options with few values, looked up when somebody presses tab."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["choices", "device_names"]


def choices(*names: str) -> Callable[[str], list[str]]:
    """Return a completion that offers those of `names` that begin as what is typed."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def device_names(incomplete: str) -> list[tuple[str, str]]:
    """Return the devices that begin as what is typed, each with its title."""
    from bitbudget.app.core.devices import DEVICES

    return [(name, d.title) for name, d in DEVICES.items() if name.startswith(incomplete.lower())]
