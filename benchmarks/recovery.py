r"""Recovery that moves codes, against training scales alone: KL in equal processor time.

    python -m bitbudget.workers.native.preload -m benchmarks.recovery --fixture FOLDER --text TEXT \
        [--bits 4.5] [--seconds 100] [--batches 20] [--ways "scales" "codes scales"]

A way is a list of what is done in turn, its time shared by the trainings in it: `scales` trains
what is stored as floats, as `--recover scales` does; `codes` is a Newton step on the codes
(`benchmarks/newton.py`), whose size is searched for on 16 rollouts that are not trained on, and
which is only taken where it is better there. Ratios are to the first way, on the text, with paired
95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import optimizers

from benchmarks.newton import NewtonStep, weight_gradients
from benchmarks.quality_model import Model, prepare
from benchmarks.quality_recovered import Made, made_at
from bitbudget.app.core.formats import Format, parse_format
from bitbudget.workers.evaluate import compare
from bitbudget.workers.recovery.stored import AffineStored
from bitbudget.workers.recovery.training import Training

SIZES = (0.1, 0.05, 0.025)


@dataclass
class Recovering:
    """A training on its way; `began` is the processor time at which it did."""

    training: Training
    formats: Mapping[str, Format]
    model: Model
    batches: int
    began: float

    @property
    def spent(self) -> float:
        """Processor seconds of all threads since it began."""
        return time.process_time() - self.began

    def scales(self, seconds: float) -> str:
        """Train what is stored as floats until `seconds` are spent, and keep the best."""
        training, before = self.training, self.training.best
        start, looked = self.spent, 0
        while self.spent < seconds and training.finite:
            share = (self.spent - start) / max(seconds - start, 1e-9)
            training.step(share)
            if share * 12 >= looked + 1:
                training.look()
                looked += 1
        training.look()
        steps = training.steps
        self._fold()
        return f"scales {steps} steps {training.best / before:.3f}"

    def codes(self) -> str:
        """Move codes by the best size of a Newton step, if any is better than none."""
        training, before = self.training, self.training.best
        stored = training.student.stored
        gradients = weight_gradients(training, self.batches)
        step = NewtonStep(self.formats, self.model.statistics, gradients)
        taken = "none"
        for size in SIZES:
            moved, count = step.moved(stored, size)
            best, training.student.stored = training.student.stored, moved
            if (kl := self._own_kl()) < training.best:
                training.best, taken = kl, f"{size:g} with {count} codes"
            else:
                training.student.stored = best
        cosine = np.median([_cosine(*pair) for pair in gradients.values()])
        return f"codes {taken} {training.best / before:.3f} (cosine of halves {cosine:.2f})"

    def report(self) -> dict[str, Any]:
        """Return the report of what is stored now, on the text."""
        student = self.training.student
        found = self.model.evaluation.sets(student.apply(student.values(), stored=True), "it")
        report: dict[str, Any] = found["text"]
        return report

    def _own_kl(self) -> float:
        student = self.training.student
        model = student.apply(student.values(), stored=True)
        return float(self.training.judge.sets(model, "it")["rollouts"]["kl_nats_per_token"])

    def _fold(self) -> None:
        """Store the best values, so that what comes next begins with none."""
        training, student = self.training, self.training.student
        kept = {name: array.astype(mx.float32) for name, array in stored_arrays(training)}
        student.stored = {
            path: replace(own, scales=kept[f"{path}.scales"], biases=kept[f"{path}.biases"])
            for path, own in student.stored.items()
            if isinstance(own, AffineStored)
        }
        student.floats = {n: replace(own, value=kept[n]) for n, own in student.floats.items()}
        training.values = training.kept = training.mean = student.values()
        training.adam = optimizers.AdamW(0.0, betas=[0.9, 0.98], weight_decay=0.0)
        training.steps, training.share = 0, 1.0


def stored_arrays(training: Training) -> list[tuple[str, mx.array]]:
    """Return the best values of a training in their stored dtypes, by array name."""
    return list(training.student.as_stored(training.kept))


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.vdot(one, other) / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-30))


def recovered(way: str, model: Model, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the report of a checkpoint after one way, and print what was done."""
    manifest = json.loads((folder / "manifest.json").read_text())
    formats = {p: parse_format(m["format"]) for p, m in manifest["modules"].items()}
    training = Training(folder, model.checkpoint.folder, seed=0)
    training.prepare()
    run = Recovering(training, formats, model, options.batches, time.process_time())
    parts, trainings = way.split(), 0
    done = []
    for part in parts:
        if part == "codes":
            done.append(run.codes())
            continue
        trainings += 1
        done.append(run.scales(options.seconds * trainings / parts.count("scales")))
    print(f"  {way}: {'; '.join(done)}; {run.spent:.0f} processor seconds", flush=True)
    return run.report()


def main() -> None:
    """Print a line for each way."""
    options = _options()
    scratch = options.scratch / options.fixture.name
    model = prepare(options.fixture, options.text, scratch, options.windows)
    fixed = sum(array.nbytes for array in model.inventory.passthrough)
    nbytes = int(options.bits * model.inventory.weights / 8) + fixed
    row = made_at(model, Made("none", 0, nbytes), scratch / "recovered")
    print(f"{options.fixture.name} {options.bits:g} before: {row['kl']:.6f} {row['interval']}")
    folder = (scratch / "recovered" / f"{nbytes}-ours").resolve()
    first: dict[str, Any] | None = None
    for way in options.ways:
        report = recovered(way, model, folder, options)
        line = f"{way}: {report['kl_nats_per_token']:.6f} {report['kl_interval_95']}"
        if first is not None:
            found = compare(report, first)
            line += f" ratio {found['ratio']:.3f} {found['ratio_interval_95']}"
        first = first or report
        print(line, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fixture", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--bits", type=float, default=4.5)
    parser.add_argument("--seconds", type=float, default=100.0, help="of processor time a way")
    parser.add_argument("--batches", type=int, default=20, help="of 512 tokens, for a gradient")
    parser.add_argument("--windows", type=int, default=64, help="of 256 tokens")
    parser.add_argument("--scratch", type=Path, default=Path("benchmarks/results/scratch"))
    parser.add_argument("--ways", nargs="*", default=("scales", "codes scales"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
