r"""Recovery that moves codes, against training scales alone: KL in equal processor time.

    python -m bitbudget.workers.native.preload -m benchmarks.recovery --fixture FOLDER \
        --text CALIBRATION --held-out TEXT [--bits 3.5 4.5] [--seconds 60] [--ways "scales" ...]

First whether there is a signal (`first_step`), then a line for each way (`arms.Arm`): what was done
with KL after over KL before on the rollouts that are not trained on, KL on calibration text, by
which ways are compared, and on held-out text. Ratios are to the first way, with 95 % intervals of
a paired bootstrap over windows.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.quality_model import Model, prepare
from benchmarks.quality_recovered import Made, made_at
from benchmarks.recovery.arms import Arm
from benchmarks.recovery.first_step import first_step
from bitbudget.app.core.formats import parse_format
from bitbudget.workers.evaluate import Evaluator, compare
from bitbudget.workers.recovery.training import Training

WAYS: Final = (
    "scales",
    "newton scales",
    "newton scales newton scales newton scales",
    "flips scales",
    "flips scales flips scales flips scales",
    "ste:0.002",
    "ste:0.02",
)


def begun(model: Model, folder: Path, options: argparse.Namespace) -> Arm:
    """Return a training of the checkpoint in `folder`, with rollouts to train on."""
    manifest = json.loads((folder / "manifest.json").read_text())
    formats = {p: parse_format(m["format"]) for p, m in manifest["modules"].items()}
    training = Training(folder, model.checkpoint.folder, seed=0)
    training.prepare()
    return Arm(training, formats, model.statistics, options.seconds, options.batches)


def compared(model: Model, folder: Path, options: argparse.Namespace) -> None:
    """Print a row of a table for each way."""
    first: dict[str, Any] = {}
    for way in options.ways:
        arm = begun(model, folder, options)
        done = arm.go(way)
        seconds = arm.spent
        found = model.evaluation.sets(arm.model(), way)
        cells = [way, "; ".join(done), f"{seconds:.0f}", f"{arm.training.best:.6f}"]
        for part in model.evaluation.windows:
            ratio = compare(found[part], first.setdefault(part, found[part]))
            low, high = ratio["ratio_interval_95"]
            cells.append(f"{found[part]['kl_nats_per_token']:.6f}")
            cells.append(f"{ratio['ratio']:.3f} [{low:.3f}, {high:.3f}]")
        print(f"| {' | '.join(cells)} |", flush=True)


def at(model: Model, bits: float, scratch: Path, options: argparse.Namespace) -> None:
    """Make the checkpoint at so many bits per weight, and print what each way makes of it."""
    fixed = sum(array.nbytes for array in model.inventory.passthrough)
    nbytes = int(bits * model.inventory.weights / 8) + fixed
    row = made_at(model, Made("none", 0, nbytes), scratch)
    print(f"{options.fixture.name} {bits:g} before: {row['kl']:.6f} {row['interval']}", flush=True)
    folder = (scratch / f"{nbytes}-ours").resolve()
    if options.signal_tokens:
        for line in first_step(begun(model, folder, options), options.signal_tokens):
            print(f"  {line}", flush=True)
    compared(model, folder, options)


def main() -> None:
    """Print what `options` ask for."""
    options = _options()
    scratch = options.scratch / options.fixture.name
    model = prepare(options.fixture, options.text, scratch, options.windows)
    windows = Evaluator(options.fixture, text=options.held_out).windows["text"]
    chosen = np.linspace(0, len(windows) - 1, min(options.windows, len(windows))).astype(int)
    model.evaluation.windows["held-out"] = windows[chosen]
    for bits in options.bits:
        at(model, bits, scratch / "recovered", options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fixture", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="that ways are compared on")
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--bits", type=float, nargs="*", default=(3.5, 4.5))
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor time a way")
    parser.add_argument("--batches", type=int, default=20, help="of 512 tokens, for a gradient")
    parser.add_argument("--signal-tokens", type=int, nargs="*", default=(4096, 16384, 65536))
    parser.add_argument("--windows", type=int, default=64, help="of 256 tokens")
    parser.add_argument("--scratch", type=Path, default=Path("benchmarks/results/scratch"))
    parser.add_argument("--ways", nargs="*", default=WAYS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
