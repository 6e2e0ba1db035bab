"""`bitbudget guide`: which Mac runs a model how well."""

from __future__ import annotations

import csv
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitbudget.app.cli.grouped import grouped
from bitbudget.app.cli.options import GivenMeasurement, Json, MeasureOptions, RuntimeName
from bitbudget.app.cli.output import say
from bitbudget.app.core.runtime import Runtime

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.core.guide import GuideRow
    from bitbudget.app.core.measurement import Measurement

__all__ = ["guide"]

_DEFAULT_CONTEXT = 8192
_SOLVING_SECONDS = 60.0


@grouped
def guide(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Folders, Hub ids or measurements (.json)."),
    ],
    *,
    measuring: MeasureOptions,
    measurement: GivenMeasurement = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens of context (default: 8192 or the model's most).")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="Only this device; repeatable (default: all).")
    ] = None,
    joint_kv: Annotated[bool, typer.Option("--joint-kv", help="Choose KV caches, too.")] = False,
    runtime: RuntimeName = Runtime.STOCK,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the rows here.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a model is on every Mac: budget, prediction, speed bound, largest context.

    Several models answer which of them a Mac runs best. Every model is measured once.
    """
    from bitbudget.app.cli.measure import load_measurement
    from bitbudget.app.core.errors import InvalidRequestError

    if measurement is not None and len(models) > 1:
        raise InvalidRequestError(
            where="--measurement",
            found=f"{len(models)} models",
            expected="one model, which the measurement is of",
            remedy="import each with bitbudget measurement import, then name the models",
        )
    found = [load_measurement(model, measuring, given=measurement) for model in models]
    tables = {
        m.model.name: _rows(m, context, device, joint_kv=joint_kv, runtime=runtime) for m in found
    }
    if csv_file is not None:
        _write_csv(csv_file, tables)
    document = {"models": {name: [asdict(row) for row in rows] for name, rows in tables.items()}}
    say(document, as_json=as_json, render=lambda console: _print(console, found, tables))


def _rows(
    measurement: Measurement,
    context: int | None,
    devices: list[str] | None,
    *,
    joint_kv: bool,
    runtime: Runtime,
) -> list[GuideRow]:
    from bitbudget.app.core.devices import DEVICES, device
    from bitbudget.app.core.guide import guide as rows_of

    most = measurement.inventory.architecture.max_context or _DEFAULT_CONTEXT
    targets = [device(name) for name in devices] if devices else list(DEVICES.values())
    end = time.monotonic() + _SOLVING_SECONDS
    return list(
        rows_of(
            measurement,
            context or min(_DEFAULT_CONTEXT, most),
            joint_kv=joint_kv,
            runtime=runtime,
            devices=targets,
            is_over=lambda: time.monotonic() > end,
        )
    )


def _write_csv(file: Path, tables: dict[str, list[GuideRow]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer: Any = None
        for name, rows in tables.items():
            for row in rows:
                values = {"model": name, **asdict(row)}
                if writer is None:
                    writer = csv.DictWriter(stream, list(values))
                    writer.writeheader()
                writer.writerow(values)


def _print(console: Console, found: list[Measurement], tables: dict[str, list[GuideRow]]) -> None:
    from rich.table import Table

    from bitbudget.app.cli.tables import exact

    for measurement in found:
        goal = measurement.objective
        table = Table(box=None, header_style="dim", title=measurement.model.name)
        for column in (
            "device",
            "files",
            "bits",
            goal.axis,
            "95 %",
            "tokens/s up to",
            "context up to",
        ):
            table.add_column(column, justify="left" if column == "device" else "right")
        for row in tables[measurement.model.name]:
            if not row.fits:
                table.add_row(row.device, "does not fit", style="dim")
                continue
            low, high = row.interval_95 or (None, None)
            table.add_row(
                row.device,
                exact(row.file_bytes),
                f"{row.bits_per_weight:.2f}",
                f"{row.predicted:.4f}",
                "" if low is None else f"{low:.4f} to {high:.4f}",
                f"{row.tokens_per_second:.0f}",
                f"{row.largest_context:,}",
            )
        console.print(table)
    console.print("Tokens per second: bandwidth times an estimated efficiency, not measured.")
