"""What a budget of bytes holds of a model, from headers alone: no device, no speed."""

from __future__ import annotations

from dataclasses import dataclass

from bitbudget.app.core.baselines import uniform_formats
from bitbudget.app.core.candidates import Rules
from bitbudget.app.core.formats import AFFINE_FORMATS, FLOAT_FORMATS
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.least import kept_bytes, least_bytes

__all__ = ["BudgetReport", "Sized", "within"]


@dataclass(frozen=True, slots=True)
class Sized:
    """One way to store the whole model."""

    name: str
    file_bytes: int
    bits_per_weight: float
    fits: bool


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """What fits in `budget_bytes`: as it is, in uniform formats, at its smallest."""

    budget_bytes: int
    bits_per_weight: float
    now: Sized
    smallest: Sized
    uniform: tuple[Sized, ...]

    @property
    def best_uniform(self) -> Sized | None:
        """The largest uniform choice that fits."""
        fitting = [choice for choice in self.uniform if choice.fits]
        return max(fitting, key=lambda choice: choice.file_bytes, default=None)


def within(inventory: Inventory, budget_bytes: int) -> BudgetReport:
    """Return the sizes of `inventory` against a budget of file bytes."""
    layout, weights = plan_checkpoint(inventory), max(inventory.weights, 1)

    def sized(name: str, nbytes: int) -> Sized:
        return Sized(name, nbytes, 8 * nbytes / weights, nbytes <= budget_bytes)

    return BudgetReport(
        budget_bytes=budget_bytes,
        bits_per_weight=8 * budget_bytes / weights,
        now=sized("keep", kept_bytes(inventory)),
        smallest=sized("smallest", least_bytes(inventory, Rules())),
        uniform=tuple(
            sized(str(format_), layout.file_bytes(uniform_formats(inventory, format_)))
            for format_ in (*AFFINE_FORMATS, *FLOAT_FORMATS)
        ),
    )
