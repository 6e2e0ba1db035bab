"""`bitbudget fit`: what fits a device or a budget, from headers alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitbudget.app.cli.completion import choices, device_names
from bitbudget.app.cli.options import (
    AllowQuantizedSource,
    GivenMeasurement,
    Json,
    MeasureOptions,
    Model,
    RuntimeName,
)
from bitbudget.app.cli.output import say
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.runtime import Runtime

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.contract.estimate import EffortTime
    from bitbudget.app.contract.reports import FitResult
    from bitbudget.app.contract.tasks import FitTask
    from bitbudget.app.core.budget_report import BudgetReport, Sized
    from bitbudget.app.core.fit_report import FitReport, SizedChoice
    from bitbudget.app.core.inventory import Inventory
    from bitbudget.app.core.measurement import Measurement

__all__ = ["fit", "inventory_of"]

_DEFAULT_CONTEXT = 8192


def fit(
    model: Model,
    *,
    device: Annotated[
        str | None,
        typer.Option(
            help="Such as m4-pro-24gb (default: the one that doctor --remember kept).",
            autocompletion=device_names,
        ),
    ] = None,
    budget: Annotated[str | None, typer.Option(help="Bytes of the files: 5.5GiB.")] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens of context (default: 8192 or the model's most).")
    ] = None,
    kv_bits: Annotated[
        int,
        typer.Option(
            help="Bits of the KV cache: 16, 8 or 4.", autocompletion=choices("16", "8", "4")
        ),
    ] = 16,
    runtime: RuntimeName = Runtime.STOCK,
    allow_quantized_source: AllowQuantizedSource = False,
    measurement: GivenMeasurement = None,
    as_json: Json = False,
) -> None:
    """Show what fits a device or a budget: memory, smallest size, uniform formats.

    Where the model was measured, here or elsewhere, also the best that fits and its prediction.
    """
    from bitbudget.app.core.devices import device as device_named
    from bitbudget.app.core.sizes import parse_size

    name, most_bytes = _asked(device, budget), None if budget is None else parse_size(budget)
    target = None if name is None else device_named(name)
    measuring = MeasureOptions(allow_quantized_source=allow_quantized_source)
    known = _known(model, measurement, measuring)
    if target is None:
        _within(known, most_bytes or 0, as_json=as_json)
        return

    from bitbudget.app.core.fit_report import fit as report_of

    inventory = known.inventory
    most = inventory.architecture.max_context or _DEFAULT_CONTEXT
    tokens = context or min(_DEFAULT_CONTEXT, most)
    report = report_of(inventory, target, tokens, kv_bits, runtime, most_bytes=most_bytes)
    _say_fit(
        known,
        _document(report),
        lambda console: _print(console, report),
        most_bytes=report.weights_limit_bytes,
        as_json=as_json,
    )


def _times(inventory: Inventory) -> tuple[EffortTime, ...]:
    """Return how long each effort takes here; the machine's speed is measured if it never was.

    Nothing where no worker is installed that could measure it.
    """
    from bitbudget.app.cli.child import home, run_with_progress
    from bitbudget.app.cli.extras import has_extra
    from bitbudget.app.contract.estimate import effort_times
    from bitbudget.app.contract.reports import SpeedResult
    from bitbudget.app.contract.stored_speed import read_speed
    from bitbudget.app.contract.tasks import SpeedTask

    known = read_speed(Path(home()))
    if known is None and not has_extra("worker"):
        return ()
    speed = known or run_with_progress(SpeedTask(home=home()), SpeedResult, "fit").speed
    return effort_times(inventory.weights, speed)


def _print_times(console: Console, times: tuple[EffortTime, ...]) -> None:
    from bitbudget.app.core.duration import duration_words

    said = [
        f"{time.effort} {duration_words(time.manifest_seconds)}"
        f" ({duration_words(time.checkpoint_seconds)} with the checkpoint)"
        for time in times
    ]
    if said:
        console.print(f"\ntime here: {', '.join(said)}", soft_wrap=True)


def _asked(device: str | None, budget: str | None) -> str | None:
    """Return the device to answer for, None for a budget alone."""
    from bitbudget.app.cli.child import home
    from bitbudget.app.core.errors import InvalidRequestError
    from bitbudget.app.fit.remembered import remembered_device

    found = device or (None if budget is not None else remembered_device(Path(home())))
    if found is None and budget is None:
        raise InvalidRequestError(
            where="fit",
            found="neither --device nor --budget",
            expected="one of them",
            remedy="write --budget 5.5GiB or --device m4-pro-24gb, or keep this Mac with "
            "bitbudget doctor --remember",
        )
    return found


def _within(known: _Known, budget_bytes: int, *, as_json: bool) -> None:
    from bitbudget.app.core.budget_report import within

    report = within(known.inventory, budget_bytes)
    _say_fit(
        known,
        _document(report),
        lambda console: _print_budget(console, report),
        most_bytes=budget_bytes,
        as_json=as_json,
    )


def _say_fit(
    known: _Known,
    document: JsonObject,
    print_report: Callable[[Console], None],
    *,
    most_bytes: int,
    as_json: bool,
) -> None:
    """Say a report with what else is known: the best of a measurement, and how long it takes."""
    from bitbudget.app.cli.best import best_within, print_best

    times = _times(known.inventory)
    best = best_within(known.measured, most_bytes)
    document = {
        **document,
        "efforts": [time.model_dump(mode="json") for time in times],
        "measured": best,
        "modules_from": known.modules_from,
    }

    def render(console: Console) -> None:
        print_report(console)
        print_best(console, best)
        _print_times(console, times)
        console.print(f"modules: told by {known.modules_from}", soft_wrap=True)

    say(document, as_json=as_json, render=render)


@dataclass(frozen=True)
class _Known:
    """A model as far as it is known; `modules_from` says what told its modules."""

    inventory: Inventory
    measured: Measurement | None
    modules_from: str


def inventory_of(model: str, *, allow_quantized_source: bool) -> Inventory:
    """Return the inventory of a model, or the one in a measurement's `.json` file."""
    return _known(
        model, None, MeasureOptions(allow_quantized_source=allow_quantized_source)
    ).inventory


def _known(model: str, given: str | None, measuring: MeasureOptions) -> _Known:
    """Return the inventory of a model, and its measurement where that is given or known."""
    from bitbudget.app.cli.child import run_quickly
    from bitbudget.app.cli.measure import load_measurement, read_measurement

    if model.endswith(".json") or given is not None:
        measured = load_measurement(model, measuring, given=given)
        return _Known(measured.inventory, measured, "a measurement")
    allow = measuring.allow_quantized_source
    found = run_quickly(lambda: _task(model, allow_quantized_source=allow), _result)
    file = found.measurement
    stored = None if file is None else read_measurement(Path(file))
    return _Known(found.inventory, stored, found.source.value)


def _task(model: str, *, allow_quantized_source: bool) -> FitTask:
    from bitbudget.app.cli.child import home, measurement_repositories
    from bitbudget.app.contract.tasks import FitTask

    return FitTask(
        home=home(),
        model=model,
        allow_quantized_source=allow_quantized_source,
        measurement_repositories=measurement_repositories(),
    )


def _result() -> type[FitResult]:
    import bitbudget.app.core.fit_report  # noqa: F401, needed when the answer is here
    from bitbudget.app.contract.reports import FitResult

    return FitResult


def _document(report: FitReport | BudgetReport) -> JsonObject:
    best = report.best_uniform
    return {**asdict(report), "best_uniform": None if best is None else best.name}


def _print_budget(console: Console, report: BudgetReport) -> None:
    from bitbudget.app.cli.tables import exact, facts, listing

    bits = f"{report.bits_per_weight:.2f} bits per weight"
    console.print(facts({"budget": f"{exact(report.budget_bytes)}, {bits}"}))
    console.print()
    shown = _ordered(report.now, report.uniform, report.smallest)
    columns = ("stored as", "files", "bits/weight", "fits")
    console.print(listing(columns, [_row(choice) for choice in shown], copied=1))
    _print_verdict(console, report.budget_bytes, report.smallest.file_bytes)


def _print(console: Console, report: FitReport) -> None:
    from bitbudget.app.cli.tables import exact, facts, listing

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
    columns = ("stored as", "files", "bits/weight", "fits", "largest context", "tokens/s at most")
    rows = [
        (*_row(choice), f"{choice.largest_context:,}", f"{choice.tokens_per_second:,.0f}")
        for choice in _ordered(report.now, report.uniform, report.smallest)
    ]
    console.print()
    console.print(listing(columns, rows, copied=1))
    _print_verdict(console, report.weights_limit_bytes, report.smallest.file_bytes)


def _ordered(now: Any, uniform: Iterable[Any], smallest: Any) -> list[Any]:
    return [now, *sorted(uniform, key=lambda choice: -choice.file_bytes), smallest]


def _row(choice: Sized | SizedChoice) -> tuple[str, ...]:
    from bitbudget.app.cli.tables import exact

    fits = "yes" if choice.fits else "no"
    return (choice.name, exact(choice.file_bytes), f"{choice.bits_per_weight:.2f}", fits)


def _print_verdict(console: Console, limit_bytes: int, least_bytes: int) -> None:
    if limit_bytes < least_bytes:
        console.print(f"\nDoes not fit: the smallest safe files take {least_bytes:,} bytes.")
    else:
        console.print(
            "\nFits: bitbudget run MODEL finds the best formats within it, and proves it."
        )
