"""Where a model is: a folder on this machine, or a name of the Hub."""

from __future__ import annotations

from pathlib import Path

from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.hub_id import HubId

__all__ = ["model_place"]


def model_place(model: str, *, names_are_ids: bool = False) -> Path | HubId:
    """Return the folder that `model` is, or else its Hub id.

    With `names_are_ids` what reads as a Hub id is never a folder. InvalidModelError for neither.
    """
    is_id = HubId.matches(model)
    folder = Path(model).expanduser()
    if folder.exists() and not (names_are_ids and is_id):
        return folder
    if not is_id:
        raise InvalidModelError(
            where=model,
            found="no such folder",
            expected="a model folder or a Hub id org/name[@revision]",
            remedy="check the path",
        )
    return HubId.parse(model)
