"""The bit heatmap: layers down, modules across, the number in the cell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.dashboard.figures.figure import Figure

__all__ = ["HeatCell", "Heatmap", "heatmap"]

_LAYER = re.compile(r"^(.*?)\.(\d+)\.(.*)$")
_KEPT_STEP = 16


@dataclass(frozen=True, slots=True)
class HeatCell:
    """One module: its path, format, stored bits per weight and the colour step of its bits.

    A cell shows `number`, the bits or `keep`, and small `mark`: the group size, or whose floats.
    """

    path: str
    column: str
    format: str
    bits_per_weight: float
    step: int
    shape: tuple[int, ...]
    number: str
    mark: str


@dataclass(frozen=True, slots=True)
class Heatmap:
    """The cells by layer and column, and those outside every layer."""

    figure: Figure
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[HeatCell | None, ...]], ...]
    outside: tuple[HeatCell, ...]


def heatmap(inventory: Inventory, formats: Mapping[str, Format]) -> Heatmap:
    """Arrange one format per module path as a table of layers and modules."""
    cells = {m.path: _cell(m, formats[m.path]) for m in inventory.modules}
    inside = [(m.layer, cells[m.path]) for m in inventory.modules if m.layer is not None]
    columns = tuple(dict.fromkeys(cell.column for _, cell in inside))
    by_place = {(layer, cell.column): cell for layer, cell in inside}
    layers = sorted({layer for layer, _ in inside})
    rows = tuple(
        (layer, tuple(by_place.get((layer, column)) for column in columns)) for layer in layers
    )
    outside = tuple(cells[m.path] for m in inventory.modules if m.layer is None)
    return Heatmap(_figure(inventory, cells), columns, rows, outside)


def _cell(module: Module, format_: Format) -> HeatCell:
    kept = format_ == KEEP
    match = _LAYER.match(module.path)
    return HeatCell(
        path=module.path,
        column=match[3] if match and module.layer is not None else module.path,
        format=str(format_),
        bits_per_weight=format_.bits_per_weight(module.dtype),
        step=_KEPT_STEP if kept else format_.bits,
        shape=module.shape,
        number="keep" if kept else str(format_.bits),
        mark="" if kept else _mark(format_),
    )


def _mark(format_: Format) -> str:
    """Return what a cell says beside the bits: `g64`, `mx` of mxfp4, `two g16` of two4g16."""
    kind, _, group = format_.short_name.partition(str(format_.bits))
    return " ".join(part for part in (kind.removesuffix("fp"), group) if part)


def _figure(inventory: Inventory, cells: Mapping[str, HeatCell]) -> Figure:
    rows = tuple(
        (m.path, m.layer, cells[m.path].format, round(cells[m.path].bits_per_weight, 3), m.weights)
        for m in inventory.modules
    )
    weighted = sum(cells[m.path].bits_per_weight * m.weights for m in inventory.modules)
    mean = weighted / max(1, inventory.weights)
    low = min(cells.values(), key=lambda cell: cell.bits_per_weight)
    high = max(cells.values(), key=lambda cell: cell.bits_per_weight)
    return Figure(
        name="formats",
        title="Formats by layer",
        summary=(
            f"{len(cells)} modules at {mean:.2f} bits per weight on average, from "
            f"{low.format} ({low.path}) to {high.format} ({high.path})."
        ),
        columns=("module", "layer", "format", "bits per weight", "weights"),
        rows=rows,
    )
