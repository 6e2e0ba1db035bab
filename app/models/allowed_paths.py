"""Which models a request may name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.hub_id import HubId

__all__ = ["ModelGate"]


@dataclass(frozen=True, slots=True)
class ModelGate:
    """Hub ids pass by their pattern; folders must lie in a root once symlinks are followed."""

    roots: tuple[Path, ...] | None

    def check(self, model: str) -> None:
        """Raise InvalidRequestError unless a job may name `model`."""
        if HubId.matches(model):
            return
        folder = _resolved(model)
        if folder is not None and (
            self.roots is None or any(folder.is_relative_to(root) for root in self.roots)
        ):
            return
        raise InvalidRequestError(
            where="model",
            found=repr(model)[:120],
            expected="a Hub id org/name[@revision], or a folder in an allowed root",
            remedy="ask the server's owner to add its folder to BITBUDGET_MODEL_ROOTS",
        )


def _resolved(model: str) -> Path | None:
    """Return the folder behind links and `~user`; None where there can be none."""
    try:
        return Path(model).expanduser().resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, no such user, a path too long
        return None
