"""What two-level formats should win by the measured curves, and in which modules.

    python -m bitbudget.workers.native.preload -m benchmarks.format_gains --fixtures tinyqwen3-moe

Predicted KL of the best allocation from the stock menu and with two-level formats beside it, at
equal bytes; the same where modules could be divided between formats at will, which tells the price
of their size; and what modules of each kind have in both answers. Nothing is coded: the curves are
those that `benchmarks.formats` keeps in the same scratch folder, or are measured first.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from benchmarks.formats import BUDGETS, FIXTURES, MENUS, WAY
from benchmarks.quality_model import prepare
from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.formats import ALL_FORMATS, KEEP, Format
from bitbudget.app.core.measurement import Curve, Measurement
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.runtime import Runtime

COMPARED: Final = ("stock", "two-level")


@dataclass(frozen=True, slots=True)
class Point:
    """What a module takes and costs in one format, or in a mixture of two."""

    nbytes: int
    kl: float


def answer(measurement: Measurement, nbytes: int, menu: str) -> tuple[float, dict[str, Format]]:
    """Return the predicted KL in nats per token of a menu's best allocation, and its formats."""
    runtime = Runtime.STOCK if menu == "stock" else Runtime.BITBUDGET
    request = AllocationRequest(
        budget=nbytes, sqnr_floor_db=0, formats=MENUS[menu], runtime=runtime
    )
    found = allocate(measurement, request)
    return found.predicted_kl_nats_per_token, dict(found.formats)


def divided(measurement: Measurement, nbytes: int, menu: str) -> float:
    """Return the least sum of costs where modules may be divided between formats.

    `nbytes` are those of modules. Each module follows the lower convex hull of its points; the
    steepest steps of all hulls are taken first.
    """
    hulls = [hull(points(measurement, curve, menu)) for curve in measurement.curves]
    left = float(nbytes - sum(one[0].nbytes for one in hulls))
    cost = sum(one[0].kl for one in hulls)
    steps = [
        (high.nbytes - low.nbytes, high.kl - low.kl) for one in hulls for low, high in pairwise(one)
    ]
    for size, gain in sorted(steps, key=lambda step: step[1] / step[0]):
        share = min(1.0, max(left, 0) / size)
        left, cost = left - share * size, cost + share * gain
    return cost


def points(measurement: Measurement, curve: Curve, menu: str) -> list[Point]:
    """Return what a module takes and costs in each format of a menu, the smallest first."""
    module = measurement.inventory.module(curve.path)
    offered = {*MENUS[menu], KEEP}
    found = (
        Point(p.format.data_bytes(module.shape, module.dtype), p.kl_nats)
        for p in curve.points
        if p.format in offered
    )
    return sorted(found, key=lambda point: (point.nbytes, point.kl))


def hull(given: Sequence[Point]) -> list[Point]:
    """Return the lower convex hull of points by size, of those that cost less than any smaller."""
    kept: list[Point] = []
    for point in given:
        if kept and point.kl >= kept[-1].kl:
            continue
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) >= _slope(kept[-1], point):
            kept.pop()
        kept.append(point)
    return kept


def _slope(low: Point, high: Point) -> float:
    return (high.kl - low.kl) / (high.nbytes - low.nbytes)


def by_kind(measurement: Measurement, formats: dict[str, Format]) -> dict[str, Point]:
    """Return bytes and summed cost of the modules of each kind, such as `down_proj`."""
    sums: dict[str, list[Point]] = defaultdict(list)
    for curve in measurement.curves:
        module, chosen = measurement.inventory.module(curve.path), formats[curve.path]
        nbytes = chosen.data_bytes(module.shape, module.dtype)
        sums[curve.path.rpartition(".")[2]].append(Point(nbytes, curve.point(chosen).kl_nats))
    return {
        kind: Point(sum(p.nbytes for p in found), sum(p.kl for p in found))
        for kind, found in sums.items()
    }


def page(name: str, measurement: Measurement, budgets: Sequence[float]) -> Iterator[str]:
    """Yield the lines of a fixture's tables as Markdown."""
    weights = measurement.inventory.weights
    fixed = sum(array.nbytes for array in measurement.inventory.passthrough)
    sizes: dict[str, int] = defaultdict(int)
    for module in measurement.inventory.modules:
        sizes[module.path.rpartition(".")[2]] += module.weights
    yield f"| {name}: bits per weight | stock | two-level over it | modules divided at will |"
    yield "|---|---|---|---|"
    answers = {}
    for bits in budgets:
        nbytes = int(bits * weights / 8)
        answers[bits] = [answer(measurement, nbytes + fixed, menu) for menu in COMPARED]
        (stock, _), (two, _) = answers[bits]
        first, second = (divided(measurement, nbytes, menu) for menu in COMPARED)
        yield f"| {bits:g} | {stock:.5f} | {two / stock:.2f} | {second / first:.2f} |"
    for bits, found in answers.items():
        kinds = [by_kind(measurement, formats) for _, formats in found]
        yield f"\n| at {bits:g} bits | of the weights | stock: bits, cost | two-level: bits, cost |"
        yield "|---|---|---|---|"
        for kind, size in sizes.items():
            cells = (f"{8 * own[kind].nbytes / size:.2f}, {own[kind].kl:.5f}" for own in kinds)
            yield f"| {kind} | {size / weights:.1%} | {' | '.join(cells)} |"


def main() -> None:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fixtures-dir", type=Path, default=Path("../shared/fixtures"))
    parser.add_argument("--fixtures", nargs="*", default=FIXTURES)
    parser.add_argument("--budgets", nargs="*", type=float, default=BUDGETS)
    parser.add_argument("--scratch", type=Path, default=Path("benchmarks/results/scratch"))
    options = parser.parse_args()
    held_out = options.fixtures_dir / "text" / "tinystories_valid_heldout.txt"
    for name in options.fixtures:
        scratch = options.scratch / name
        model = prepare(options.fixtures_dir / name, held_out, scratch, windows=1)
        model.candidates, model.kept = ALL_FORMATS, scratch
        print("\n".join(page(name, model.measurement(WAY), options.budgets)), flush=True)


if __name__ == "__main__":
    main()
