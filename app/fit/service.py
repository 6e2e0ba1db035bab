"""What fits on a device, of models met before and of those that were not."""

from __future__ import annotations

from dataclasses import dataclass

from bitbudget.app.core.devices import device
from bitbudget.app.core.fit_report import fit
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.fit.headers import HeaderReader
from bitbudget.app.fit.schemas import Fit, FitRequest
from bitbudget.app.models.service import ModelService

__all__ = ["FitService"]


@dataclass(frozen=True, slots=True)
class FitService:
    """Answers before anything is measured."""

    models: ModelService
    headers: HeaderReader

    def report(self, request: FitRequest) -> Fit:
        """Tell which sizes of a model fit a device; raises what `inventory` does."""
        inventory = self.inventory(request.model)
        target = device(request.device)
        report = fit(inventory, target, request.context, request.kv_bits, request.runtime)
        return Fit.model_validate(report)

    def inventory(self, model: str) -> Inventory:
        """Return a model's inventory: the stored one, else from its headers."""
        return self.models.inventory(model) or self.headers.inventory(model)
