"""The least and the most bytes a model's files can have."""

from __future__ import annotations

from bitbudget.app.core.formats import ALL_FORMATS, KEEP, Format
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.layout import module_bytes, plan_checkpoint

__all__ = ["size_span"]


def size_span(inventory: Inventory) -> tuple[int, int]:
    """Return the bytes with every module in its smallest legal format, and with all kept."""
    layout = plan_checkpoint(inventory)
    smallest = {module.path: _smallest(module) for module in inventory.modules}
    kept = {module.path: KEEP for module in inventory.modules}
    return layout.file_bytes(smallest), layout.file_bytes(kept)


def _smallest(module: Module) -> Format:
    return min(module.legal_formats(ALL_FORMATS), key=lambda format_: module_bytes(module, format_))
