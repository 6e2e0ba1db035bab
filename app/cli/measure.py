"""`bitbudget measure`: the rate-distortion curves and sensitivities of a model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitbudget.app.cli.grouped import grouped
from bitbudget.app.cli.options import Json, MeasureOptions, Model, disk_limit_bytes
from bitbudget.app.cli.output import Document, say

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.contract.reports import MeasureResult
    from bitbudget.app.contract.tasks import MeasureTask
    from bitbudget.app.core.measurement import Measurement

__all__ = ["load_measurement", "load_measurements", "measure", "measure_task", "read_measurement"]


@grouped
def measure(
    model: Model,
    *,
    options: MeasureOptions,
    formats: Annotated[
        str | None, typer.Option(help="Candidates, with commas (default: all).")
    ] = None,
    features: Annotated[str, typer.Option(help="default or full.")] = "default",
    cluster: Annotated[
        str | None, typer.Option(help="Dask scheduler whose workers measure, tls://scheduler:8786.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Also write the measurement here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure every module in every format, and what its error costs in KL."""
    result = measure_in_child(
        model, options, formats=_names(formats), features=features, cluster=cluster
    )
    measurement = read_measurement(Path(result.measurement))
    if output is not None:
        shutil.copyfile(result.measurement, output)
        result = result.model_copy(update={"measurement": str(output)})
    document = {
        **result.model_dump(mode="json"),
        "key": measurement.key,
        "modules": len(measurement.curves),
        "weights": measurement.inventory.weights,
        "verification": _verification(measurement),
        "calibration": asdict(measurement.calibration),
    }
    say(document, as_json=as_json, render=lambda console: _print(console, measurement, result))


def _names(formats: str | None) -> list[str] | None:
    return None if formats is None else [name.strip() for name in formats.split(",")]


def measure_in_child(model: str, options: MeasureOptions, **more: object) -> MeasureResult:
    """Measure `model` in a child, or find its stored measurement; return the task's result."""
    from bitbudget.app.cli.child import run_with_progress
    from bitbudget.app.contract.reports import MeasureResult

    limit = disk_limit_bytes(options.disk_limit)
    task = measure_task(model, {"disk_limit_bytes": limit, **options.fields(), **more})
    return run_with_progress(task, MeasureResult, "measure")


def measure_task(model: str, fields: Mapping[str, object]) -> MeasureTask:
    """Return the task that measures `model` in this user's home; `fields` are its other fields."""
    from bitbudget.app.cli.child import home, measurement_repositories
    from bitbudget.app.contract.tasks import MeasureTask

    where = {"home": home(), "measurement_repositories": measurement_repositories()}
    return MeasureTask.model_validate({**where, "model": model, **fields})


def load_measurements(
    model: str,
    options: MeasureOptions,
    *,
    given: str | None = None,
    budget: Document | None = None,
    preview: bool | None = None,
) -> list[Measurement]:
    """As `load_measurement`; with `--rotation auto`, of the model as it is and rotated.

    A `budget` that cannot be is refused before anything is measured; `preview` says whether a first
    answer to it comes before.
    """
    if model.endswith(".json") or given is not None:
        return [load_measurement(model, options, given=given)]
    made = measure_in_child(model, options, budget=budget, preview=preview)
    return [read_measurement(Path(path)) for path in made.measurements.values()]


def load_measurement(
    model: str, options: MeasureOptions, *, given: str | None = None
) -> Measurement:
    """Return the measurement of a model, made now if need be, or the one in a `.json` file.

    `given` is one that somebody else made: checked, and refused unless it is of these weights.
    """
    if given is not None:
        from bitbudget.app.cli.measurement import import_measurement

        return read_measurement(Path(import_measurement(given, model, options).measurement))
    if model.endswith(".json"):
        return read_measurement(Path(model))
    return read_measurement(Path(measure_in_child(model, options).measurement))


def read_measurement(file: Path) -> Measurement:
    """Read a stored measurement; InvalidRequestError when the file holds something else."""
    from pydantic import ValidationError

    from bitbudget.app.core.errors import InvalidRequestError
    from bitbudget.app.core.measurement import Measurement

    try:
        return Measurement.from_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidRequestError(
            where=str(file),
            found=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            expected="a measurement written by bitbudget measure",
            remedy="measure the model again",
        ) from error


def _verification(measurement: Measurement) -> dict[str, float] | None:
    found = measurement.verification
    if found is None:
        return None
    return {"r_squared": found.r_squared, "spearman": found.spearman, "slope": found.slope}


def _print(console: Console, measurement: Measurement, result: MeasureResult) -> None:
    from rich.markup import escape
    from rich.table import Table

    from bitbudget.app.cli.tables import facts
    from bitbudget.app.core.calibration_text import text_words

    rows = {
        "model": f"{measurement.model.name} ({measurement.inventory.architecture.model_type})",
        "modules": f"{len(measurement.curves)}, {measurement.inventory.weights:,} weights",
        "effort": measurement.effort.value,
        "encoder": measurement.encoder.value,
        "sensitivity": measurement.sensitivity.value,
        "calibration text": text_words(measurement.text),
        "stored": result.measurement,
    }
    if measurement.verification is not None:
        found = measurement.verification
        rows["predicted against measured"] = (
            f"R2 {found.r_squared:.3f}, Spearman {found.spearman:.3f}, slope {found.slope:.2f}"
        )
    if measurement.calibration.costs:
        costs, kl = measurement.calibration.costs, measurement.calibration.measured
        shares = ", ".join(f"{m / c:.2f} at {m:.2g}" for c, m in zip(costs, kl, strict=True))
        rows["whole checkpoints"] = f"KL over the sum of the curves {shares}"
    console.print(facts(rows))
    table = Table(
        box=None, header_style="dim", title="Most sensitive modules", title_justify="left"
    )
    table.add_column("module")
    table.add_column("alpha (nats per unit of t2)", justify="right")
    for curve in sorted(measurement.curves, key=lambda curve: -curve.alpha_nats)[:8]:
        table.add_row(curve.path, f"{curve.alpha_nats:.4g}")
    console.print(table)
    for warning in result.warnings:
        console.print(f"[yellow]note:[/] {escape(warning)}", soft_wrap=True)
