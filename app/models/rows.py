"""A model as a row, and the inventory that the row holds."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from pydantic import TypeAdapter

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.measurement import ModelIdentity
from bitbudget.app.models.tables import ModelRow

__all__ = ["inventory_from", "model_row"]

_INVENTORY: Final = TypeAdapter(Inventory)


def model_row(identity: ModelIdentity, inventory: Inventory, now: datetime) -> ModelRow:
    """Return the row of a model."""
    return ModelRow(
        digest=identity.digest,
        name=identity.name,
        revision=identity.revision,
        model_type=inventory.architecture.model_type,
        weights=inventory.weights,
        inventory=_INVENTORY.dump_python(inventory, mode="json"),
        created_at=now,
    )


def inventory_from(value: JsonObject) -> Inventory:
    """Read a stored inventory."""
    return _INVENTORY.validate_python(value)
