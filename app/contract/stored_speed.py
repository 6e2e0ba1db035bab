"""The speed of this machine as it is kept under BITBUDGET_HOME."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter, ValidationError

from bitbudget.app.contract.home import Folder
from bitbudget.app.core.machine_speed import MachineSpeed

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_speed", "write_speed"]

_SPEED: Final = TypeAdapter(MachineSpeed)


def read_speed(home: Path) -> MachineSpeed | None:
    """Return what was measured before, None where nothing was or it cannot be read."""
    try:
        return _SPEED.validate_json(_path(home).read_bytes())
    except (OSError, ValidationError):
        return None


def write_speed(home: Path, speed: MachineSpeed) -> None:
    """Keep `speed`: a temporary file, then a rename."""
    path = _path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(_SPEED.dump_json(speed))
    draft.replace(path)


def _path(home: Path) -> Path:
    return Folder.SPEED.under(home) / "speed.json"
