"""The task of `bitbudget fit`: an inventory from headers alone.

It imports what it needs and no more, because somebody waits for the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bitbudget.app.contract.events import Event
from bitbudget.app.contract.steps import Step
from bitbudget.app.contract.tasks import FitTask
from bitbudget.workers.models import build_inventory
from bitbudget.workers.pipeline.report import Reporter
from bitbudget.workers.pipeline.steps.fetch import fetch_headers
from bitbudget.workers.pipeline.steps.inventory import inventory_document

__all__ = ["run_fit"]


def run_fit(task: FitTask, emit: Callable[[Event], None]) -> dict[str, Any]:
    """Return the model's name and inventory; no weight is read."""
    reporter = Reporter(emit)
    checkpoint = fetch_headers(task.model, reporter)
    report = reporter.step(Step.INVENTORY)
    inventory = build_inventory(checkpoint)
    report.progress(1, 1, "models")
    return {
        "model": {"name": checkpoint.name, "revision": checkpoint.revision},
        "inventory": inventory_document(inventory),
    }
