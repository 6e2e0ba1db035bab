"""The answer to a task `fit` where no MLX is installed."""

from __future__ import annotations

from collections.abc import Callable

from bitbudget.app.contract.events import Event, Logged
from bitbudget.app.contract.messages import storable_text
from bitbudget.app.contract.reports import FitModel, FitResult, InventorySource
from bitbudget.app.contract.tasks import FitTask
from bitbudget.workers.files.place import model_place
from bitbudget.workers.outline.inventory import named_inventory
from bitbudget.workers.outline.source import read_source

__all__ = ["fit_by_names"]


def fit_by_names(task: FitTask, emit: Callable[[Event], None]) -> FitResult:
    """Return the model's name and its inventory, told by config.json and names in the headers.

    Whether the weights were measured before is not looked up: that is known where they were.
    Raises what `read_source` and `named_inventory` do.
    """
    place = model_place(task.model, names_are_ids=task.names_are_ids)
    source = read_source(place, allow_quantized=task.allow_quantized_source)
    for note in source.notes:
        emit(Logged(detail=storable_text(note)))
    return FitResult(
        model=FitModel(name=task.name or source.name, revision=source.revision),
        inventory=named_inventory(source.config, source.tensors, source.notes),
        source=InventorySource.NAMES,
    )
