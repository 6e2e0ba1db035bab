"""A model as a row, and the inventory that the row holds."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from pydantic import TypeAdapter

from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.measurement import ModelIdentity
from bitbudget.app.models.tables import ModelRow
from bitbudget.app.storage.stored import read_adapted

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


def inventory_from(row: ModelRow) -> Inventory | None:
    """Return a model's inventory, None where what is stored of it cannot be read."""
    return read_adapted(_INVENTORY, row.inventory, "inventory", f"model {row.digest}")
