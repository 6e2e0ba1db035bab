"""`bitbudget frontier`: every size of a model with the least KL it can have."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitbudget.app.cli.grouped import grouped
from bitbudget.app.cli.options import GivenMeasurement, Json, MeasureOptions, Model
from bitbudget.app.cli.output import say
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.sqnr import DEFAULT_SQNR_FLOOR_DB

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.core.frontier import Frontier, MarkedPoint
    from bitbudget.app.core.sensitivity import Objective

__all__ = ["figure", "frontier"]

_SHOWN = 12


@grouped
def frontier(
    model: Model,
    *,
    measuring: MeasureOptions,
    measurement: GivenMeasurement = None,
    sqnr_floor: Annotated[
        float, typer.Option(help="Least SQNR of a format, in dB.")
    ] = DEFAULT_SQNR_FLOOR_DB,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the points here.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write an HTML page with the plot here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the whole trade of bytes against what is minimised, and where uniform formats lie.

    MODEL may also be a measurement that `bitbudget measure -o` wrote.
    """
    from bitbudget.app.cli.extras import require_extra
    from bitbudget.app.cli.measure import load_measurement
    from bitbudget.app.core.frontier import frontier as solve

    if plot is not None:
        require_extra("server", "frontier --plot")
    measured = load_measurement(model, measuring, given=measurement)
    goal = measured.objective
    found = solve(measured, sqnr_floor_db=sqnr_floor)
    if csv_file is not None:
        _write_csv(csv_file, found, goal)
    if plot is not None:
        drawn = figure(found, measured.model.name, goal)
        drawn.write_html(plot, include_plotlyjs=True)
    say(
        _document(found, goal), as_json=as_json, render=lambda console: _print(console, found, goal)
    )


def _document(found: Frontier, goal: Objective) -> JsonObject:
    return {
        "objective": {"name": goal.name, "unit": goal.unit},
        "smallest_bytes": found.smallest_bytes,
        "breakpoints": [
            {"file_bytes": point.file_bytes, goal.key: point.kl_nats_per_token}
            for point in found.breakpoints
        ],
        "uniform": [_marked(point, goal) for point in found.uniform],
        "recipes": [_marked(point, goal) for point in found.recipes],
    }


def _marked(point: MarkedPoint, goal: Objective) -> JsonObject:
    return {
        "name": point.name,
        "file_bytes": point.file_bytes,
        goal.key: point.kl_nats_per_token,
    }


def _write_csv(file: Path, found: Frontier, goal: Objective) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("kind", "name", "file_bytes", goal.key))
        writer.writerows(("frontier", "", *point) for point in found.breakpoints)
        writer.writerows(("uniform", *point) for point in found.uniform)
        writer.writerows(("recipe", *point) for point in found.recipes)


def figure(found: Frontier, title: str, goal: Objective) -> Any:
    """Return the frontier and the recipes of others as a plotly figure."""
    from plotly import graph_objects

    drawn = graph_objects.Figure()
    line = [point for point in found.breakpoints if point.kl_nats_per_token > 0]
    drawn.add_scatter(
        x=[point.file_bytes for point in line],
        y=[point.kl_nats_per_token for point in line],
        mode="lines",
        name="best possible",
    )
    for name, points in (("uniform", found.uniform), ("mixed recipes", found.recipes)):
        drawn.add_scatter(
            x=[point.file_bytes for point in points],
            y=[point.kl_nats_per_token for point in points],
            text=[point.name for point in points],
            mode="markers",
            name=name,
        )
    drawn.update_layout(title=title, template="simple_white")
    drawn.update_xaxes(title="bytes of the files")
    drawn.update_yaxes(title=goal.axis, type="log")
    return drawn


def _print(console: Console, found: Frontier, goal: Objective) -> None:
    from rich.table import Table

    from bitbudget.app.cli.tables import exact

    points = found.breakpoints
    step = max(1, (len(points) - 1) // (_SHOWN - 1))
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("files", justify="right")
    table.add_column(goal.axis, justify="right")
    for point in (*points[:-1:step], points[-1]):
        table.add_row(exact(point.file_bytes), f"{point.kl_nats_per_token:.6f}")
    console.print(f"{len(points):,} best allocations, a few of them:")
    console.print(table)
    console.print("\nOthers at their own sizes:")
    for marked in sorted((*found.uniform, *found.recipes), key=lambda point: point.file_bytes):
        text = f"{marked.name:<12} {exact(marked.file_bytes):>26}  {marked.kl_nats_per_token:.6f}"
        console.print(text, markup=False)
