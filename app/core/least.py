"""The smallest checkpoint that a request allows, told from headers before anything is measured.

Whether a format is above the SQNR floor shows once its error is measured; before, a width counts as
above it when Gaussian weights would be. On the models measured so far the two agree within 0.1 % of
the bytes, so that a budget is refused only where it is lower by more than `_DOUBT`.
"""

from __future__ import annotations

from typing import Final

from bitbudget.app.core.candidates import ExactSizes, Rules, legal_formats
from bitbudget.app.core.devices import device
from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.formats import ALL_FORMATS, KEEP, Format
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.joined_groups import decision_groups_for
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.memory import plan_memory
from bitbudget.app.core.requests import AllocationRequest

__all__ = ["check_feasible", "kept_bytes", "least_bytes", "least_formats"]

_GAUSSIAN_SQNR_DB: Final = {2: 8.8, 3: 15.3, 4: 21.8, 5: 28.1, 6: 34.3, 8: 46.4}
"""SQNR of Gaussian weights after mx.quantize in groups of 32, the best of each width."""

_DOUBT: Final = 0.01
"""Share of the bytes by which the estimated minimum may be too high."""


def least_formats(inventory: Inventory, rules: Rules) -> dict[str, Format]:
    """Return the smallest format of every module that `rules` are expected to leave it.

    Modules of one decision group share theirs. Raises InvalidRequestError for pins and floors that
    match no module or contradict each other.
    """
    sizes = ExactSizes()
    chosen: dict[str, Format] = {}
    for name, members in decision_groups_for(inventory, rules.runtime).items():
        legal = legal_formats(name, members, ALL_FORMATS, rules)
        safe = [f for f in legal if _is_expected_above(f, rules.sqnr_floor_db)] or legal
        least = min(safe, key=lambda f: sum(sizes.of(module, f) for module in members))
        chosen |= {module.path: least for module in members}
    return chosen


def _is_expected_above(format_: Format, floor_db: float) -> bool:
    return format_ == KEEP or _GAUSSIAN_SQNR_DB[format_.bits] >= floor_db


def least_bytes(inventory: Inventory, rules: Rules) -> int:
    """Return the file bytes with `least_formats`."""
    return plan_checkpoint(inventory).file_bytes(least_formats(inventory, rules))


def kept_bytes(inventory: Inventory) -> int:
    """Return the file bytes with every module stored as it is."""
    kept = {module.path: KEEP for module in inventory.modules}
    return plan_checkpoint(inventory).file_bytes(kept)


def check_feasible(inventory: Inventory, request: AllocationRequest) -> None:
    """Raise InfeasibleBudgetError where no allocation can be within the stated budget.

    The budget is the stated bytes, or what the device leaves for weights. Nothing is said of joint
    KV, whose caches can shrink, and of a model that may be quantized already.
    """
    stated = [] if request.budget_bytes is None else [request.budget_bytes]
    if request.device is not None and request.context is not None and not request.joint_kv:
        plan = plan_memory(
            inventory, device(request.device), request.context, request.kv_bits, request.runtime
        )
        stated.append(max(plan.weights_limit_bytes, 0))
    if not stated:
        return
    least = least_bytes(inventory, Rules.of(request))
    if min(stated) < least * (1 - _DOUBT):
        raise InfeasibleBudgetError(budget_bytes=min(stated), minimum_bytes=least)
