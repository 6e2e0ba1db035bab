"""Stage inventory: what the model is made of."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from app.core.canonical import canonical_json
from app.core.inventory import Inventory
from app.leases.schemas import Stage
from workers.models import Checkpoint, build_inventory
from workers.stages.home import Home, write_whole
from workers.stages.report import Reporter

__all__ = ["inventory_json", "take_inventory"]


def take_inventory(checkpoint: Checkpoint, home: Home, reporter: Reporter) -> Inventory:
    """Return the inventory, announced as inventory.json."""
    report = reporter.stage(Stage.INVENTORY)
    inventory = build_inventory(checkpoint)
    digest = checkpoint.identity(home.digests).digest
    path: Path = home.folder / "models" / digest / "inventory.json"
    report.artifact(write_whole(path, inventory_json(inventory)))
    count = len(inventory.modules)
    report.progress(count, count, "modules")
    return inventory


def inventory_json(inventory: Inventory) -> bytes:
    """Return canonical JSON of an inventory."""
    return canonical_json(TypeAdapter(Inventory).dump_python(inventory, mode="json"))
