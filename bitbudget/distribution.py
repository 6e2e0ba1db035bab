"""The name and the version that `pip install` knows this package by."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

__all__ = ["DISTRIBUTION", "install_hint", "installed_version"]

DISTRIBUTION: Final = "mlx-bitbudget"
"""Not the name that is imported: `bitbudget` on the package index is somebody else's."""


def installed_version() -> str:
    """Return the installed version; `0` in a checkout that is not installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0"


def install_hint(extra: str) -> str:
    """Return the command that installs an optional part, such as `worker`."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"
