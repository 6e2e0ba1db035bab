"""Which optional parts of bitbudget are installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from bitbudget.app.cli.failures import MissingExtraError

__all__ = ["has_extra", "require_extra"]

_PROBES: Final = {
    "worker": ("mlx", "mlx_lm"),
    "server": ("fastapi", "sqlalchemy", "uvicorn", "jinja2"),
    "cluster": ("distributed",),
    "gguf": ("gguf",),
}


def has_extra(extra: str) -> bool:
    """Whether every package of the extra can be found, without importing any."""
    return all(find_spec(name) is not None for name in _PROBES[extra])


def require_extra(extra: str, command: str) -> None:
    """Raise MissingExtraError when `command` cannot run in this installation."""
    if not has_extra(extra):
        raise MissingExtraError(command=f"bitbudget {command}", extra=extra)
