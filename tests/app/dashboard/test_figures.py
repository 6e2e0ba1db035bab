from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest

from bitbudget.app.contract.reports import Baseline, Rival, UniformRival
from bitbudget.app.core.activations import INT8_NATS
from bitbudget.app.core.baselines import uniform_formats
from bitbudget.app.core.calibration import Calibration
from bitbudget.app.core.formats import KEEP, parse_format
from bitbudget.app.core.frontier import frontier
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.measurement import Measurement, Verification
from bitbudget.app.core.sqnr import DEFAULT_SQNR_FLOOR_DB
from bitbudget.app.dashboard.figures.figure import Figure
from bitbudget.app.dashboard.figures.frontier import Point, frontier_figure, thinned
from bitbudget.app.dashboard.figures.heatmap import heatmap
from bitbudget.app.dashboard.figures.int8 import int8_figure
from bitbudget.app.dashboard.figures.parts import bar, file_parts
from bitbudget.app.dashboard.figures.rivals import equal_bytes
from bitbudget.app.dashboard.figures.tensor import tensor
from bitbudget.app.dashboard.figures.verification import verification_figure
from bitbudget.app.dashboard.formatting import module_words, role_words
from bitbudget.app.dashboard.frontier_view import trade_of
from bitbudget.app.dashboard.rendering import plain
from tests.app.cli.conftest import build_manifest
from tests.support.large import large_measurement
from tests.support.reports import evaluation

DOWN = "model.layers.0.mlp.down_proj"
QUERY = "model.layers.0.self_attn.q_proj"


def test_a_csv_reads_back_to_the_table() -> None:
    figure = Figure("x", "X", "", ("a", "b"), (('say "hi", twice', 1.5), ("two\nlines", None)))
    rows = list(csv.reader(io.StringIO(figure.csv())))
    assert rows == [["a", "b"], ['say "hi", twice', "1.5"], ["two\nlines", ""]]


def test_every_module_has_one_cell(measurement: Measurement) -> None:
    formats = uniform_formats(measurement.inventory, parse_format("affine4g64"))
    heat = heatmap(measurement.inventory, formats)
    inside = [cell for _, cells in heat.rows for cell in cells if cell is not None]
    paths = {cell.path for cell in (*inside, *heat.outside)}
    assert paths == {module.path for module in measurement.inventory.modules}
    assert [layer for layer, _ in heat.rows] == [0, 1]
    steps = {cell.path: cell.step for cell in inside}
    assert steps[DOWN] == 16  # no group divides 172: kept
    assert steps[QUERY] == 4
    assert len(heat.figure.rows) == len(paths)


def test_cells_and_columns_of_experts_are_named_in_words() -> None:
    inventory = large_measurement().inventory
    formats = uniform_formats(inventory, parse_format("affine4g64"))
    heat = heatmap(inventory, formats | {"model.layers.3.mlp.gate": parse_format("mxfp8")})
    named = dict(zip(map(module_words, heat.columns), heat.rows[3][1], strict=True))
    wanted = {"router", "experts down", "shared expert gate", "attn q", "mlp up"}
    assert wanted < named.keys()
    router, query = named["router"], named["attn q"]
    assert router is not None
    assert query is not None
    assert (router.number, router.mark, query.number, query.mark) == ("8", "mx", "4", "g64")
    assert named["mlp up"] is None
    said = {
        "mlp.gate": "Router: chooses the experts of a token (layer 3).",
        "mlp.switch_mlp.down_proj": "Output of the experts, of which each token goes through a few"
        " (layer 3).",
        "mlp.shared_expert.gate_proj": "Gate of the shared expert, which every token goes through"
        " (layer 3).",
    }
    assert {name: role_words(f"model.layers.3.{name}") for name in said} == said


def test_parts_add_up_to_the_files(measurement: Measurement) -> None:
    manifest = build_manifest(measurement, "affine4g64")
    formats = manifest.formats
    parts = file_parts(measurement.inventory, formats, manifest.budget_bytes)
    assert sum(part.nbytes for part in parts.parts) == manifest.file_bytes
    assert ("total", manifest.file_bytes) in parts.figure.rows
    assert "7 bytes to spare" in parts.figure.summary
    last = parts.parts[-1]
    assert last.start + last.width == pytest.approx(100 * manifest.file_bytes / parts.whole_bytes)


def test_a_bar_with_too_much_in_it_says_so_and_keeps_its_width() -> None:
    full = bar("m", "M", (("weights", 30), ("cache", 20)), ("the memory", 40))
    assert "10 bytes too many" in full.figure.summary
    assert full.parts[-1].start + full.parts[-1].width == pytest.approx(100)


def test_the_reason_names_steps_on_both_sides_of_the_price(measurement: Measurement) -> None:
    module = measurement.inventory.module(QUERY)
    shown = tensor(
        module,
        measurement.curve(QUERY),
        parse_format("affine4g64"),
        shadow_price_nats_per_byte=1e-6,
        sqnr_floor_db=DEFAULT_SQNR_FLOOR_DB,
    )
    assert "Going down to affine" in shown.reason
    assert "Going up to affine" in shown.reason
    assert len(shown.figure.rows) == len(measurement.curve(QUERY).points)
    chosen = shown.figure.series[1]
    assert list(chosen.labels) == ["affine4g64"]


def test_a_module_that_must_be_kept_has_no_reason_to_be_otherwise(measurement: Measurement) -> None:
    shown = tensor(
        measurement.inventory.module(DOWN),
        measurement.curve(DOWN),
        KEEP,
        shadow_price_nats_per_byte=0.0,
        sqnr_floor_db=DEFAULT_SQNR_FLOOR_DB,
    )
    assert shown.reason == "There is no other format to choose."
    json.dumps(plain(shown), allow_nan=False)  # its SQNR is infinite


def test_the_frontier_keeps_its_ends_when_thinned() -> None:
    points = [Point("", size, 1 / size) for size in range(1, 5001)]
    kept = thinned(points, 100)
    assert len(kept) == 100
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert thinned(points[:7], 100) == tuple(points[:7])


def test_the_frontier_figure_speaks_of_the_nearest_uniform(measurement: Measurement) -> None:
    trade = trade_of(frontier(measurement))
    smallest = trade.line[0].file_bytes
    assert smallest >= plan_checkpoint(measurement.inventory).fixed_bytes
    middle = trade.line[len(trade.line) // 2]
    figure = frontier_figure(trade.line, [middle], trade.uniform)
    assert "times less KL than uniform 5-bit" in figure.summary
    named = next(series for series in figure.series if series.name == "uniform")
    assert named.named
    assert "5-bit" in named.labels
    kinds = {row[0] for row in figure.rows}
    assert kinds == {"answer", "uniform", "frontier"}
    assert all(y > 0 for series in figure.series for y in series.y)  # the axis is logarithmic


def test_predicted_against_measured_has_a_line_of_equality(measurement: Measurement) -> None:
    assert verification_figure(measurement) is None
    found = Verification((0.01, 0.1), (0.011, 0.09), (4.5, 3.5), 0.99, 1.0, 0.95)
    checked = replace(measurement, verification=found)
    figure = verification_figure(checked)
    assert figure is not None
    line, allocations = figure.series
    assert list(line.x) == list(line.y) == [0.01, 0.1]
    assert list(allocations.y) == [0.011, 0.09]
    assert "slope 0.95" in figure.summary
    law = Calibration((0.02, 0.2), (0.018, 0.3))
    figure = verification_figure(replace(checked, calibration=law))
    assert figure is not None
    assert [row[0] for row in figure.rows] == ["random allocation"] * 2 + ["whole checkpoint"] * 2
    assert list(figure.series[0].x) == [0.01, 0.3]
    assert "2 whole checkpoints" in figure.summary


def test_int8_products_are_told_of_modules_that_have_statistics(measurement: Measurement) -> None:
    assert int8_figure(measurement, build_manifest(measurement, "affine4g64")) is None
    features = {QUERY: {INT8_NATS: 0.25}, DOWN: {INT8_NATS: 9.0}}
    curves = [replace(c, features=features.get(c.path, {})) for c in measurement.curves]
    known = replace(measurement, curves=tuple(curves))
    figures = [
        int8_figure(known, build_manifest(known, name)) for name in ("affine4g64", "affine8g64")
    ]
    four, eight = (figure for figure in figures if figure is not None)
    assert [row[:2] for row in four.rows] == [(QUERY, "affine4g64")]  # down_proj is kept
    assert (four.rows[0][3], eight.rows[0][3]) == ("yes", "no")
    assert four.rows[0][4] == 0.25
    assert " 0% of these files. Rounding what those modules read costs 0 nats" in eight.summary


def test_rivals_are_compared_at_equal_bytes() -> None:
    def side(kl: float) -> dict[str, Any]:
        return {
            "sha256": "0" * 64,
            "file_bytes": 10,
            "predicted_kl_nats_per_token": kl,
            "evaluation": evaluation(kl),
        }

    uniform = UniformRival(format="affine4g64", **side(0.04))
    figure = equal_bytes(Baseline(uniform=uniform, ours_at_equal_bytes=Rival(**side(0.01))))
    assert "4.0 times less" in figure.summary
    assert [row[0] for row in figure.rows] == ["bitbudget", "uniform affine4g64"]
    predicted = Rival(sha256="0" * 64, file_bytes=10, predicted_kl_nats_per_token=0.02)
    figure = equal_bytes(Baseline(uniform=uniform, ours_at_equal_bytes=predicted))
    assert "Predicted KL" in figure.summary
    assert "2.0 times less" in figure.summary
