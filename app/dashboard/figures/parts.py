"""Parts of a whole in bytes: of the finished files, or of a device's memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitbudget.app.core.formats import Format
from bitbudget.app.core.inventory import Inventory, ModuleKind
from bitbudget.app.core.layout import module_bytes, plan_checkpoint
from bitbudget.app.core.memory import MemoryPlan
from bitbudget.app.core.sizes import format_size
from bitbudget.app.dashboard.figures.figure import Figure

__all__ = ["Bar", "Part", "bar", "file_parts", "memory_parts"]


@dataclass(frozen=True, slots=True)
class Part:
    """One part, and where it starts and how wide it is in per cent of the bar."""

    name: str
    nbytes: int
    start: float
    width: float

    @property
    def size(self) -> str:
        """The bytes in words."""
        return format_size(self.nbytes)


@dataclass(frozen=True, slots=True)
class Bar:
    """A stacked bar whose full width is `whole_bytes`; `figure` carries its table."""

    figure: Figure
    parts: tuple[Part, ...]
    whole_bytes: int
    whole_name: str

    @property
    def whole_size(self) -> str:
        """The full width in words."""
        return format_size(self.whole_bytes)


def bar(name: str, title: str, parts: Sequence[tuple[str, int]], whole: tuple[str, int]) -> Bar:
    """Lay parts side by side in a bar as wide as the whole, or wider if the parts exceed it."""
    whole_name, whole_bytes = whole
    used = sum(nbytes for _, nbytes in parts)
    width = max(whole_bytes, used, 1)
    laid, start = [], 0.0
    for part, nbytes in parts:
        share = 100 * nbytes / width
        laid.append(Part(part, nbytes, start, share))
        start += share
    return Bar(_figure(name, title, parts, whole), tuple(laid), whole_bytes, whole_name)


def _figure(
    name: str, title: str, parts: Sequence[tuple[str, int]], whole: tuple[str, int]
) -> Figure:
    whole_name, whole_bytes = whole
    used = sum(nbytes for _, nbytes in parts)
    spare = whole_bytes - used
    rest = f"{spare:,} bytes to spare" if spare >= 0 else f"{-spare:,} bytes too many"
    listed = ", ".join(f"{part} {format_size(nbytes)}" for part, nbytes in parts)
    return Figure(
        name=name,
        title=title,
        summary=f"{listed}: {used:,} of {whole_bytes:,} bytes of {whole_name}, {rest}.",
        columns=("part", "bytes"),
        rows=(*parts, ("total", used), (whole_name, whole_bytes)),
    )


def file_parts(inventory: Inventory, formats: Mapping[str, Format], budget_bytes: int) -> Bar:
    """Return the bytes of the files by what they hold, against the budget."""
    totals: dict[str, int] = {}
    for module in inventory.modules:
        group = _group(module.path, module.kind)
        totals[group] = totals.get(group, 0) + module_bytes(module, formats[module.path])
    totals["norms and headers"] = plan_checkpoint(inventory).fixed_bytes
    return bar("bytes", "Parts of the files", tuple(totals.items()), ("the budget", budget_bytes))


def memory_parts(plan: MemoryPlan, file_bytes: int, title: str) -> Bar:
    """Return what the model takes of a device's memory, against what a GPU may use of it."""
    parts = (
        ("weights", file_bytes),
        ("KV cache", plan.kv_cache_bytes),
        ("prefill peak", plan.prefill_bytes),
        ("reserve", plan.reserve_bytes),
    )
    whole = (f"the usable memory of {title}", plan.usable_bytes)
    return bar("memory", "Parts of the memory", parts, whole)


def _group(path: str, kind: ModuleKind) -> str:
    if kind is ModuleKind.EMBEDDING:
        return "embeddings"
    if kind is ModuleKind.SWITCH_LINEAR:
        return "experts"
    if "attn" in path or "attention" in path:
        return "attention"
    if "lm_head" in path:
        return "head"
    return "feed-forward" if "mlp" in path or "feed_forward" in path else "other modules"
