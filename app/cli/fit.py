"""`bitbudget fit`: what fits a device, from headers alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitbudget.app.cli.options import Json, Model, RuntimeName
from bitbudget.app.cli.output import say
from bitbudget.app.core.runtime import Runtime

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.contract.reports import FitResult
    from bitbudget.app.contract.tasks import FitTask
    from bitbudget.app.core.fit_report import FitReport, SizedChoice
    from bitbudget.app.core.inventory import Inventory

__all__ = ["fit"]

_DEFAULT_CONTEXT = 8192


def fit(
    model: Model,
    *,
    device: Annotated[str, typer.Option(help="Such as m4-pro-24gb.")],
    context: Annotated[
        int | None, typer.Option(help="Tokens of context (default: 8192 or the model's most).")
    ] = None,
    kv_bits: Annotated[int, typer.Option(help="Bits of the KV cache: 16, 8 or 4.")] = 16,
    runtime: RuntimeName = Runtime.STOCK,
    as_json: Json = False,
) -> None:
    """Show what fits a device: parts of the memory, smallest size, uniform formats."""
    from bitbudget.app.core.devices import device as device_named

    target = device_named(device)
    inventory = _inventory(model)

    from bitbudget.app.core.fit_report import fit as report_of

    most = inventory.architecture.max_context or _DEFAULT_CONTEXT
    tokens = context or min(_DEFAULT_CONTEXT, most)
    report = report_of(inventory, target, tokens, kv_bits, runtime)
    say(_document(report), as_json=as_json, render=lambda console: _print(console, report))


def _inventory(model: str) -> Inventory:
    """Return the inventory of a model, or the one in a measurement's `.json` file."""
    from bitbudget.app.cli.child import run_quickly

    if model.endswith(".json"):
        from bitbudget.app.cli.measure import read_measurement

        return read_measurement(Path(model)).inventory
    return run_quickly(lambda: _task(model), _result, "fit").inventory


def _task(model: str) -> FitTask:
    from bitbudget.app.cli.child import home
    from bitbudget.app.contract.tasks import FitTask

    return FitTask(home=home(), model=model)


def _result() -> type[FitResult]:
    import bitbudget.app.core.fit_report  # noqa: F401, needed when the answer is here
    from bitbudget.app.contract.reports import FitResult

    return FitResult


def _document(report: FitReport) -> dict[str, Any]:
    best = report.best_uniform
    return {**asdict(report), "best_uniform": None if best is None else best.name}


def _print(console: Console, report: FitReport) -> None:
    from rich.table import Table

    from bitbudget.app.cli.tables import exact, facts

    memory = report.memory
    console.print(
        facts(
            {
                "device": f"{report.device}, {report.context:,} tokens, {report.kv_bits}-bit KV",
                "runtime": report.runtime.value,
                "GPU working set": exact(memory.working_set_bytes),
                "usable of it": exact(memory.usable_bytes),
                "KV cache": exact(memory.kv_cache_bytes),
                "prefill peak": exact(memory.prefill_bytes),
                "reserve": exact(memory.reserve_bytes),
                "left for weights": exact(report.weights_limit_bytes),
            }
        )
    )
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("stored as", "files", "fits", "largest context", "tokens/s at most"):
        table.add_column(name, justify="left" if name == "stored as" else "right")
    for choice in (report.now, *sorted(report.uniform, key=_size), report.smallest):
        table.add_row(*_row(choice))
    console.print()
    console.print(table)


def _size(choice: SizedChoice) -> int:
    return -choice.file_bytes


def _row(choice: SizedChoice) -> tuple[str, ...]:
    from bitbudget.app.cli.tables import exact

    return (
        choice.name,
        exact(choice.file_bytes),
        "[green]yes[/]" if choice.fits else "[red]no[/]",
        f"{choice.largest_context:,}",
        f"{choice.tokens_per_second:,.0f}",
    )
