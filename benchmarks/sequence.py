r"""What coding layers in sequence wins, with stacked experts and without: KL at the same formats.

    python -m bitbudget.workers.native.preload -m benchmarks.sequence --fixture FOLDER --text TEXT \
        [--budgets 3.5 4.5] [--windows 64]

One allocation of ours for each budget is coded three times: every module on its own, layers in
sequence but stacked experts on their own, and everything in sequence. Ratios are to the column on
the left, with 95 % intervals of a paired bootstrap over windows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from benchmarks.quality_model import Model, Ours, prepare
from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.formats import Format, parse_format
from bitbudget.app.core.measurement import Encoder
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.workers.evaluate import compare
from bitbudget.workers.quantize.coding import arrays_alone, coded_alone, coded_in_sequence
from bitbudget.workers.sequential import Plan

DEFAULT = Ours(Encoder.YAQA, "fisher")


def allocation(model: Model, bits: float, file: Path) -> dict[str, Format]:
    """Return the formats of our answer at so many bits per weight, kept in `file`."""
    if not file.is_file():
        fixed = sum(array.nbytes for array in model.inventory.passthrough)
        budget = int(bits * model.inventory.weights / 8) + fixed
        request = AllocationRequest(budget=budget, sqnr_floor_db=0)
        answer = allocate(model.measurement(DEFAULT), request)
        file.write_text(json.dumps({path: str(f) for path, f in answer.formats.items()}))
    return {path: parse_format(name) for path, name in json.loads(file.read_text()).items()}


def ways(model: Model) -> dict[str, frozenset[str]]:
    """Return by name of a column which modules are coded on their own."""
    modules = model.inventory.modules
    stacks = frozenset(module.path for module in modules if len(module.shape) > 2)  # noqa: PLR2004
    found = {"alone": frozenset(module.path for module in modules), "experts alone": stacks}
    return (found if stacks else {"alone": found["alone"]}) | {"in sequence": frozenset()}


def coded(
    model: Model, formats: Mapping[str, Format], alone: frozenset[str]
) -> dict[str, np.ndarray]:
    """Return the float32 weight of every module as it is stored."""
    checkpoint, statistics, encoder = model.checkpoint, model.statistics, DEFAULT.encoder
    plan = Plan(
        model.inventory,
        formats,
        encoder,
        statistics,
        lambda module, f: arrays_alone(checkpoint, module, f, encoder, statistics),
        alone,
    )
    found = coded_in_sequence(checkpoint.folder, plan)
    missing = [m for m in model.inventory.modules if m.path not in found]
    return found | {
        m.path: coded_alone(checkpoint, m, formats[m.path], encoder, statistics) for m in missing
    }


def measured(model: Model, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the report of the original with these weights."""
    runs = model.evaluation.original
    model.evaluation.taught  # noqa: B018 - before the weights are replaced
    runs.load_weights([(f"{p}.weight", mx.array(w)) for p, w in weights.items()], strict=False)
    report = model.evaluation.sets(runs, "coded")["text"]
    originals = [(f"{path}.weight", mx.array(model.weights(path))) for path in weights]
    runs.load_weights(originals, strict=False)
    return report


def main() -> None:
    """Print a row for each budget."""
    options = _options()
    scratch = options.scratch / options.fixture.name
    model = prepare(options.fixture, options.text, scratch, options.windows)
    for bits in options.budgets:
        formats = allocation(model, bits, scratch / f"allocation-{bits:g}.json")
        before: dict[str, Any] | None = None
        for name, alone in ways(model).items():
            if name not in options.ways:
                continue
            report = measured(model, coded(model, formats, alone))
            low, high = report["kl_interval_95"]
            line = f"{options.fixture.name} {bits:g} {name}: "
            line += f"{report['kl_nats_per_token']:.6f} [{low:.6f}, {high:.6f}]"
            if before is not None:
                found = compare(report, before)
                low, high = found["ratio_interval_95"]
                line += f" ratio {found['ratio']:.3f} [{low:.3f}, {high:.3f}]"
            print(line, flush=True)
            before = report
            if options.output is not None:
                options.output.mkdir(parents=True, exist_ok=True)
                file = options.output / f"{options.fixture.name}-{bits:g}-{name.replace(' ', '-')}"
                file.with_suffix(".json").write_text(json.dumps(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fixture", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--budgets", nargs="*", type=float, default=(3.5, 4.5))
    parser.add_argument("--windows", type=int, default=64, help="of 256 tokens")
    parser.add_argument("--scratch", type=Path, default=Path("benchmarks/results/scratch"))
    parser.add_argument("--output", type=Path, help="folder for the whole reports, as JSON")
    parser.add_argument("--ways", nargs="*", default=("alone", "experts alone", "in sequence"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
