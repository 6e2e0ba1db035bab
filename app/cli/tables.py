"""Results drawn for people with Rich."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bitbudget.app.core.formats import Format
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.kv import KvSide
from bitbudget.app.core.manifest import KvChoice, Manifest
from bitbudget.app.core.sizes import format_size

__all__ = [
    "exact",
    "facts",
    "formats_by_layer",
    "interval_words",
    "kv_by_layer",
    "listing",
    "manifest_facts",
]


def exact(nbytes: int) -> str:
    """Return bytes to the last digit and readable: `3,456,789 B (3.30 MiB)`."""
    return f"{nbytes:,} B ({format_size(nbytes)})"


def interval_words(interval: tuple[float, float] | None) -> str:
    """Return `, 95 %: 0.001 to 0.002` for what follows a number; "" where it is not known."""
    return "" if interval is None else f", 95 %: {interval[0]:.3g} to {interval[1]:.3g}"


def facts(rows: Mapping[str, str]) -> Text:
    """Return lines of names and values; no value is cut or broken: it can be copied."""
    width = max(map(len, rows), default=0)
    lines = [Text.assemble((f"{name:<{width}}", "dim"), "  ", text) for name, text in rows.items()]
    return Text("\n").join(lines)


def listing(columns: Sequence[str], rows: Iterable[Sequence[str]], *, copied: int) -> Table:
    """Return a table whose first `copied` columns are whole however narrow the terminal is."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, no_wrap=index < copied, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def formats_by_layer(
    inventory: Inventory | None, formats: Mapping[str, Format], title: str = "Formats by layer"
) -> Table:
    """Return layers x modules with the chosen format in each cell."""
    cells = [(*_place(path, inventory), format_.short_name) for path, format_ in formats.items()]
    roles = list(dict.fromkeys(role for layer, role, _ in cells if layer is not None))
    table = Table(title=title, title_justify="left", box=None, header_style="dim", pad_edge=False)
    table.add_column("layer", justify="right", style="dim")
    for role in roles:
        table.add_column(role.removesuffix("_proj"), justify="right")
    for layer, row in _rows(cells).items():
        table.add_row(str(layer), *(row.get(role, "") for role in roles))
    outside = [f"{role} {cell}" for layer, role, cell in cells if layer is None]
    if outside:
        table.caption = "outside the layers: " + ", ".join(outside)
        table.caption_justify = "left"
    return table


def _rows(cells: Iterable[tuple[int | None, str, str]]) -> dict[int, dict[str, str]]:
    rows: dict[int, dict[str, str]] = {}
    for layer, role, cell in cells:
        if layer is not None:
            rows.setdefault(layer, {})[role] = cell
    return rows


def _place(path: str, inventory: Inventory | None) -> tuple[int | None, str]:
    if inventory is not None:
        module = inventory.module(path)
        return module.layer, module.role
    parts = path.split(".")
    layer = next((int(part) for part in parts if part.isdecimal()), None)
    return layer, parts[-1]


def kv_by_layer(choices: Mapping[int, Mapping[KvSide, KvChoice]]) -> str:
    """Return runs of layers with one format: `0-3 8g64, 4 16`, or `0-3 t4/t3` of keys/values."""
    runs: list[tuple[int, int, str]] = []
    for layer, sides in sorted(choices.items()):
        name = "/".join(str(choice.format) for _, choice in sorted(sides.items()))
        if runs and runs[-1][2] == name:
            runs[-1] = (runs[-1][0], layer, name)
        else:
            runs.append((layer, layer, name))
    return ", ".join(
        f"{first} {name}" if first == last else f"{first}-{last} {name}"
        for first, last, name in runs
    )


def manifest_facts(manifest: Manifest) -> Text:
    """Return budget, bytes and certificate."""
    proof, goal = manifest.certificate, manifest.objective
    spare = manifest.budget_bytes - manifest.file_bytes
    made_with = (
        f"{manifest.effort.value} effort, {manifest.encoder.value} encoder,"
        f" {manifest.sensitivity.value} sensitivity"
    )
    rows = {
        "model": f"{manifest.model.name} ({manifest.model.model_type})",
        "budget": exact(manifest.budget_bytes),
        "files": f"{exact(manifest.file_bytes)}, {spare:,} B to spare",
        "bits per weight": f"{manifest.bits_per_weight:.3f}",
        goal.label: f"{proof.predicted_kl_nats_per_token:.6f} {goal.unit}"
        + interval_words(proof.predicted_kl_interval_95),
        "lower bound": f"{proof.bound:.6f}, gap {proof.gap:.2e} ({proof.status}, {proof.solver})",
        "one more MiB": f"-{proof.shadow_price_nats_per_byte * 2**20:.6f} {goal.unit}",
        "measured by": made_with,
        "sha256": manifest.sha256,
    }
    if manifest.kv_cache is not None:
        caches = manifest.kv_cache.values()
        total = sum(choice.bytes for sides in caches for choice in sides.values())
        chosen = f"{exact(total)}: {kv_by_layer(manifest.kv_cache)}"
        rows[f"KV cache ({manifest.request.runtime.value})"] = chosen
    if proof.stopped_by:
        rows["stopped by"] = proof.stopped_by
    return facts(rows)
