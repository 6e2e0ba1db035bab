"""Step inventory: what the model is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter

from bitbudget.app.contract.steps import Step
from bitbudget.app.core.canonical import canonical_json
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.least import check_feasible
from bitbudget.app.core.measurement import ModelIdentity
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.workers.models import Checkpoint, build_inventory
from bitbudget.workers.pipeline.home import Home, write_whole
from bitbudget.workers.pipeline.report import Reporter

__all__ = ["inventory_document", "take_inventory"]


def take_inventory(
    checkpoint: Checkpoint,
    home: Home,
    reporter: Reporter,
    *,
    budget: AllocationRequest | None = None,
    survey: Callable[[Inventory], None] | None = None,
) -> Inventory:
    """Return the inventory, announced as inventory.json.

    `survey` may read the files before anybody else does. Raises InfeasibleBudgetError where
    `budget` is below anything that the model can be stored in.
    """
    report = reporter.step(Step.INVENTORY)
    inventory = build_inventory(checkpoint)
    if budget is not None:
        check_feasible(inventory, budget)
    if survey is not None:
        survey(inventory)
    model = checkpoint.identity(home.digests)
    path = home.model(model.digest) / "inventory.json"
    report.artifact(write_whole(path, canonical_json(_document(model, inventory))))
    count = len(inventory.modules)
    report.progress(count, count, "modules")
    return inventory


def _document(model: ModelIdentity, inventory: Inventory) -> dict[str, Any]:
    identity = TypeAdapter(ModelIdentity).dump_python(model, mode="json")
    return {"model": identity, "inventory": inventory_document(inventory)}


def inventory_document(inventory: Inventory) -> dict[str, Any]:
    """Return the inventory as plain values for JSON."""
    document: dict[str, Any] = TypeAdapter(Inventory).dump_python(inventory, mode="json")
    return document
