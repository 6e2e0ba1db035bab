"""What fits on a device, of models met before and of those that were not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bitbudget.app.contract.estimate import effort_times
from bitbudget.app.contract.reports import InventorySource
from bitbudget.app.contract.stored_speed import read_speed
from bitbudget.app.core.devices import device
from bitbudget.app.core.fit_report import fit
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.machine_speed import TYPICAL, MachineSpeed
from bitbudget.app.fit.headers import HeaderReader
from bitbudget.app.fit.schemas import Fit, FitRequest
from bitbudget.app.models.service import ModelService
from bitbudget.app.workers.service import WorkerService

__all__ = ["FitService"]

_REPORTED: Final = Fit.model_fields.keys() - {"efforts", "timed_on", "modules_from"}


@dataclass(frozen=True, slots=True)
class FitService:
    """Answers before anything is measured."""

    models: ModelService
    headers: HeaderReader
    workers: WorkerService
    home: Path

    def report(self, request: FitRequest) -> Fit:
        """Tell which sizes of a model fit a device; raises what `inventory` does."""
        inventory, source = self._known(
            request.model, allow_quantized_source=request.allow_quantized_source
        )
        target = device(request.device)
        report = fit(inventory, target, request.context, request.kv_bits, request.runtime)
        timed_on, speed = self.speed()
        return Fit(
            **{name: getattr(report, name) for name in _REPORTED},
            efforts=effort_times(inventory.weights, speed),
            timed_on=timed_on,
            modules_from=source,
        )

    def speed(self) -> tuple[str, MachineSpeed]:
        """Return the machine that a job would run on, and its speed."""
        here = read_speed(self.home)
        return self.workers.newest_speed() or (
            ("a typical machine", TYPICAL) if here is None else ("this machine", here)
        )

    def inventory(self, model: str, *, allow_quantized_source: bool = False) -> Inventory:
        """Return a model's inventory: the stored one, else from its headers."""
        return self._known(model, allow_quantized_source=allow_quantized_source)[0]

    def _known(
        self, model: str, *, allow_quantized_source: bool
    ) -> tuple[Inventory, InventorySource]:
        """Return the inventory of a worker, else from headers, with what told the modules."""
        stored = self.models.inventory(model)
        if stored is not None:
            return stored, InventorySource.CLASS
        found = self.headers.read(model, allow_quantized_source=allow_quantized_source)
        return found.inventory, found.source
