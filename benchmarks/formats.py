"""KL at equal bytes: the formats of stock mlx-lm, and those of our own runtime beside them.

`python -m benchmarks.formats` measures every fixture once in all formats with YAQA and allocates
the same bytes from several menus. Statistics come from text that the model writes; KL is measured
on held-out text, and ratios to the stock menu have 95 % intervals on the same windows. `--fused`
does the same with the model's fused rotation and two-level formats: its ratios are to two-level
formats without, and `auto` marks the one of the two that a job with `--rotation auto` would take.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np

from benchmarks.quality_model import Model, Ours, prepare
from benchmarks.rotation import Twin
from bitbudget.app.core.formats import ALL_FORMATS, STOCK_FORMATS, Format, Mode
from bitbudget.app.core.measurement import Encoder
from bitbudget.app.core.requests import Rotation
from bitbudget.app.core.rotation_choice import best_of
from bitbudget.app.core.runtime import Runtime
from bitbudget.workers.evaluate import compare
from bitbudget.workers.fisher import collect_statistics
from bitbudget.workers.models import build_inventory
from bitbudget.workers.rotate import rotate_checkpoint
from bitbudget.workers.running.float32 import load_float32

FIXTURES: Final = (
    "stories260K-llama",
    "babyllama105-llama",
    "tinyqwen3-moe",
    "tinyqwen3-dense",
)
BUDGETS: Final = (3.0, 3.5, 4.0, 4.5, 5.0)
WAY: Final = Ours(Encoder.YAQA, "fisher")


def _with(*modes: Mode) -> tuple[Format, ...]:
    return tuple(f for f in ALL_FORMATS if f.is_stock or f.mode in modes)


MENUS: Final[dict[str, tuple[Format, ...]]] = {
    "stock": STOCK_FORMATS,
    "two-level": _with(Mode.TWO_LEVEL),
    "Mirai's": _with(Mode.ZERO_POINT, Mode.SYMMETRIC),
}


def rows_of(name: str, model: Model, budgets: Sequence[float]) -> list[dict[str, Any]]:
    """Return what each menu makes of a fixture at each size, and its ratio to the stock menu."""
    fixed = sum(array.nbytes for array in model.inventory.passthrough)
    found = []
    for bits in budgets:
        nbytes = int(bits * model.inventory.weights / 8) + fixed
        stock: dict[str, Any] | None = None
        for menu, formats in MENUS.items():
            runtime = Runtime.STOCK if menu == "stock" else Runtime.BITBUDGET
            row = model.at(WAY, nbytes, formats=formats, runtime=runtime)
            if row is None:
                continue
            stock = row if menu == "stock" else stock
            ratio = {} if stock is None else compare(row, stock)
            found.append({"fixture": name, "bits": bits, "menu": menu, **row, **ratio})
            print({k: v for k, v in found[-1].items() if k != "kl_per_window"}, flush=True)
    return found


class Fused(Twin):
    """A rotated fixture, coded in sequence as a job does it, judged by the original."""

    def evaluate(self, formats: dict[str, Format], encoder: Encoder) -> dict[str, Any]:
        """Return the report of the rotated model with its modules as they would be stored."""
        return Model.evaluate(self, formats, encoder)

    def report_of(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the report of the rotated model with float32 weights of modules replaced."""
        model = load_float32(self.checkpoint.folder)
        model.load_weights([(f"{p}.weight", mx.array(a)) for p, a in arrays.items()], strict=False)
        report: dict[str, Any] = self.evaluation.sets(model, "ours")["text"]
        return report


def fused(model: Model, scratch: Path) -> Fused:
    """Return a fixture with its fused rotation, and what is known of it in `scratch`."""
    folder = scratch / "fused-model"
    checkpoint, _ = rotate_checkpoint(model.checkpoint, folder, Rotation.FUSED, seed=0)
    inventory = build_inventory(checkpoint)
    tokens = np.load(scratch / "tokens.npy")
    (scratch / "fused").mkdir(exist_ok=True)
    statistics = collect_statistics(checkpoint, tokens, seed=0, scratch=scratch / "fused")
    twin = Fused(checkpoint, inventory, statistics, model.evaluation)
    twin.candidates, twin.kept = MENUS["two-level"], scratch / "fused"
    return twin


def fused_rows(
    name: str, model: Model, twin: Fused, budgets: Sequence[float]
) -> list[dict[str, Any]]:
    """Return two-level formats with the rotation at each size, and the ratio to those without."""
    fixed = sum(array.nbytes for array in model.inventory.passthrough)
    found = []
    for bits in budgets:
        nbytes = int(bits * model.inventory.weights / 8) + fixed
        limits: dict[str, Any] = {"formats": MENUS["two-level"], "runtime": Runtime.BITBUDGET}
        plain, turned = (each.at(WAY, nbytes, **limits) for each in (model, twin))
        if plain is None or turned is None:
            continue
        pair = ((model, plain), (twin, turned))
        auto = best_of([(each.measurement(WAY), row["predicted"]) for each, row in pair])
        row = {"fixture": name, "bits": bits, "menu": "two-level, fused", **turned}
        found.append(row | compare(turned, plain) | {"auto": ("none", "fused")[auto]})
        print({k: v for k, v in found[-1].items() if k != "kl_per_window"}, flush=True)
    return found


def _interval(row: dict[str, Any]) -> str:
    low, high = row["ratio_interval_95"]
    return f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| fixture | bits | menu | bytes | KL | over stock |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["interval"]
        ratio = _interval(row) if "ratio" in row and row["menu"] != "stock" else ""
        ratio += f", auto takes {row['auto']}" if "auto" in row else ""
        lines.append(
            f"| {row['fixture']} | {row['bits']:g} | {row['menu']} | {row['bytes']:,} |"
            f" {row['kl']:.4f} ({low:.4f}-{high:.4f}) | {ratio} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fixtures-dir", type=Path, default=Path("../shared/fixtures"))
    parser.add_argument("--fixtures", nargs="*", default=FIXTURES)
    parser.add_argument("--budgets", nargs="*", type=float, default=BUDGETS)
    parser.add_argument("--windows", type=int, default=64, help="of 256 held-out tokens")
    parser.add_argument("--scratch", type=Path, default=Path("benchmarks/results/scratch"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--fused", action="store_true", help="the rotation, in two-level formats")
    options = parser.parse_args()
    held_out = options.fixtures_dir / "text" / "tinystories_valid_heldout.txt"
    rows: list[dict[str, Any]] = []
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.fixtures:
        model = prepare(
            options.fixtures_dir / name, held_out, options.scratch / name, options.windows
        )
        model.candidates, model.kept = ALL_FORMATS, options.scratch / name
        if options.fused:
            twin = fused(model, options.scratch / name)
            rows += fused_rows(name, model, twin, options.budgets)
        else:
            rows += rows_of(name, model, options.budgets)
        (options.output / "formats.json").write_text(json.dumps(rows, indent=1) + "\n")
        (options.output / "formats.md").write_text(table(rows))


if __name__ == "__main__":
    main()
