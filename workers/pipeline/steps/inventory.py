"""Step inventory: what the model is made of."""

from __future__ import annotations

from pydantic import BaseModel

from bitbudget.app.contract.stored_speed import read_speed
from bitbudget.app.core.canonical import canonical_json
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.least import check_feasible
from bitbudget.app.core.machine_speed import MachineSpeed
from bitbudget.app.core.measurement import ModelIdentity
from bitbudget.app.core.requests import Rotation
from bitbudget.workers.files.limits import reading
from bitbudget.workers.models import Checkpoint, build_inventory
from bitbudget.workers.pipeline.files import write_whole
from bitbudget.workers.pipeline.measuring.elsewhere import KnownMeasurement
from bitbudget.workers.pipeline.options import FetchOptions, MeasureOptions, StatedBudget
from bitbudget.workers.pipeline.run import Run, Variant, Variants
from bitbudget.workers.pipeline.time_limit import keep_within

__all__ = ["announce", "check_budget", "run_step"]


class _Document(BaseModel):
    """inventory.json: which weights, and what they are made of."""

    model: ModelIdentity
    inventory: Inventory


def run_step(run: Run) -> Variants:
    """Return the model with its inventory, announced as inventory.json.

    Where the task has a limit of time, the best effort that fits it is taken from here on.
    Raises InfeasibleBudgetError where the budget is below anything that the model can be stored in,
    and TooLittleTimeError where no effort fits.
    Files that are seen for the first time are read here, once, for all that weights alone tell.
    """
    checkpoint = run[Checkpoint]
    files = [file.nbytes for file in checkpoint.files if checkpoint.hold is not None]
    with reading(*files and [max(files)]):
        inventory = build_inventory(checkpoint)
    for note in inventory.notes:
        run.report.log(note)
    modules = len(inventory.modules)
    run.report.weigh(weights=inventory.weights, modules=modules, **_speed(run))
    keep_within(run)
    variant = Variant(checkpoint, inventory, run[MeasureOptions])
    if variant.options.rotation in {Rotation.NONE, Rotation.AUTO}:
        check_budget(run, inventory)
    if not run[FetchOptions].headers_only:
        _survey(run, variant)
        announce(run, variant)
    run.report.progress(modules, modules, "modules")
    run.keep(variant)
    return Variants((variant,))


def _speed(run: Run) -> dict[str, MachineSpeed]:
    """Return the speed of this machine, measured now if it is to run a model and never was."""
    known = read_speed(run.home.folder)
    runs = run.report.work.runs and run.find(KnownMeasurement) is None
    if known is None and runs and not run[FetchOptions].headers_only:
        from bitbudget.workers.benchmark.machine_speed import machine_speed  # noqa: PLC0415, MLX

        known = machine_speed(run.home.folder)
    return {} if known is None else {"speed": known}


def check_budget(run: Run, inventory: Inventory) -> None:
    """Raise InfeasibleBudgetError where the stated budget is below anything feasible."""
    stated = run.find(StatedBudget)
    if stated is not None:
        check_feasible(inventory, stated.request)


def announce(run: Run, variant: Variant) -> None:
    """Store inventory.json under the digest of the model and announce it."""
    model = variant.checkpoint.identity(run.home.digests)
    document = _Document(model=model, inventory=variant.inventory)
    path = run.home.model(model.digest) / "inventory.json"
    run.report.artifact(write_whole(path, canonical_json(document.model_dump(mode="json"))))


def _survey(run: Run, variant: Variant) -> None:
    from bitbudget.workers.pipeline.measuring.survey import survey  # noqa: PLC0415, fit does without

    survey(run, variant)
