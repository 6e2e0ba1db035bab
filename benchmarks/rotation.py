"""What a rotation buys at the same bytes: KL of rotated against unrotated models, with intervals.

`python -m bitbudget.workers.native.preload -m benchmarks.rotation` measures every fixture as it is,
folded and fused, allocates each within the same file bytes, encodes and evaluates. The head that
folding unties is paid for out of the same budget. `auto` is the choice a job makes: the lower
predicted KL of `none` and `folded`. Ratios are paired: both models on the same resamples of the
same text. Sensitivities come from text the model writes; KL is measured on held-out text.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from benchmarks.quality_model import Model, Ours
from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.errors import InfeasibleBudgetError, UnsupportedModelError
from bitbudget.app.core.formats import Format
from bitbudget.app.core.measurement import Encoder, Measurement
from bitbudget.app.core.requests import AllocationRequest, Rotation
from bitbudget.app.core.rotation_choice import best_of
from bitbudget.workers.evaluate import Evaluator, compare
from bitbudget.workers.fisher import collect_statistics
from bitbudget.workers.models import Checkpoint, build_inventory, open_checkpoint
from bitbudget.workers.rotate import rotate_checkpoint, rotation_kl
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.tokens import SEQUENCE_LENGTH, default_tokens, sample_tokens

FIXTURES = ("stories260K-llama", "babyllama105-llama", "tinyqwen3-moe", "tinyqwen3-dense")
BUDGETS = (3.5, 4.0, 4.5, 5.0, 6.0, 8.0, 10.0)
ENCODERS = (Encoder.YAQA, Encoder.CAREFUL)


class Twin(Model):
    """A fixture, rotated or not, judged by the original's evaluation."""

    def measurement(self, way: Ours) -> Measurement:
        """Return curves of one of our ways, said to be of which rotation."""
        kind = next((k for k in ("fused", "folded") if k in self.checkpoint.folder.name), "none")
        lost = rotation_kl(self.checkpoint)
        found = super().measurement(way)
        return replace(found, rotation=kind, rotation_kl_nats=lost)

    def evaluate(self, formats: dict[str, Format], encoder: Encoder) -> dict[str, Any]:
        """Return the report of this twin with its modules replaced by their coded values."""
        model = load_float32(self.checkpoint.folder)
        arrays = {path: self._values(path, formats[path], encoder) for path in formats}
        model.load_weights([(f"{p}.weight", mx.array(a)) for p, a in arrays.items()], strict=False)
        report: dict[str, Any] = self.evaluation.sets(model, "ours")["text"]
        return report


@dataclass(frozen=True)
class Outcome:
    """One rotation of one fixture, allocated with one encoder within one budget."""

    rotation: Rotation
    file_bytes: int
    predicted: float
    report: dict[str, Any]

    def row(self) -> dict[str, Any]:
        """Return what is printed and stored."""
        low, high = self.report["kl_interval_95"]
        return {
            "rotation": self.rotation.value,
            "file_bytes": self.file_bytes,
            "predicted_kl": self.predicted,
            "kl": self.report["kl_nats_per_token"],
            "kl_interval_95": [low, high],
        }


def twins(
    name: str, options: argparse.Namespace, scratch: Path
) -> tuple[dict[Rotation, Twin], dict[str, Any]]:
    """Return the fixture as it is and every rotation it takes, and the rotation reports."""
    original = open_checkpoint(options.fixtures_dir / name)
    text = options.fixtures_dir / "text" / "tinystories_valid_heldout.txt"
    evaluation = Evaluator(original.folder, text=text)
    count = (
        options.sequences or default_tokens(build_inventory(original).weights) // SEQUENCE_LENGTH
    )
    found = {Rotation.NONE: _twin(original, evaluation, scratch / "none", count)}
    notes: dict[str, Any] = {}
    for kind in options.rotations:
        try:
            made, report = rotate_checkpoint(
                original, scratch / f"{kind.value}-model", kind, seed=options.seed
            )
        except UnsupportedModelError as refusal:
            notes[kind.value] = str(refusal)
            continue
        notes[kind.value] = asdict(report)
        found[kind] = _twin(made, evaluation, scratch / kind.value, count)
    return found, notes


def _twin(checkpoint: Checkpoint, evaluation: Evaluator, scratch: Path, count: int) -> Twin:
    inventory = build_inventory(checkpoint)
    tokens = sample_tokens(checkpoint, count, seed=0)
    statistics = collect_statistics(checkpoint, tokens, seed=0, scratch=scratch)
    return Twin(checkpoint, inventory, statistics, evaluation)


def outcome(twin: Twin, rotation: Rotation, nbytes: int, encoder: Encoder) -> Outcome | None:
    """Return the twin's best allocation within `nbytes`, evaluated; None when nothing fits."""
    measurement = twin.measurement(Ours(encoder, "fisher"))
    try:
        answer = allocate(measurement, AllocationRequest(budget=nbytes, sqnr_floor_db=0))
    except InfeasibleBudgetError:
        return None
    report = twin.evaluate(dict(answer.formats), encoder)
    return Outcome(rotation, answer.file_bytes, answer.predicted_kl_nats_per_token, report)


def contest(twins_: dict[Rotation, Twin], bits: float, encoder: Encoder) -> dict[str, Any] | None:
    """Return every rotation at `bits` per weight of the original, and what `auto` takes."""
    inventory = twins_[Rotation.NONE].inventory
    nbytes = int(bits * inventory.weights / 8) + sum(a.nbytes for a in inventory.passthrough)
    made = [outcome(twin, kind, nbytes, encoder) for kind, twin in twins_.items()]
    found = {each.rotation: each for each in made if each is not None}
    if Rotation.NONE not in found:
        return None
    plain = found[Rotation.NONE]
    stock = [found[kind] for kind in (Rotation.NONE, Rotation.FOLDED) if kind in found]
    measured = [twins_[each.rotation].measurement(Ours(encoder, "fisher")) for each in stock]
    predicted = [each.predicted for each in stock]
    chosen = stock[best_of(list(zip(measured, predicted, strict=True)))]
    rows = []
    for each in found.values():
        ratio = compare(each.report, plain.report)
        rows.append(each.row() | {key: ratio[key] for key in ("ratio", "ratio_interval_95")})
    auto = next(row for row in rows if row["rotation"] == chosen.rotation.value)
    return {
        "bits_per_weight": bits,
        "budget_bytes": nbytes,
        "encoder": encoder.value,
        "rows": rows,
        "auto": chosen.rotation.value,
        "auto_worse_beyond_interval": chosen is not plain and auto["ratio_interval_95"][0] > 1,
    }


def _print(name: str, found: dict[str, Any]) -> None:
    for row in found["rows"]:
        low, high = row["ratio_interval_95"]
        mark = "auto" if row["rotation"] == found["auto"] else ""
        print(
            f"{name:20s} {found['bits_per_weight']:4.1f} bpw {found['encoder']:8s}"
            f" {row['rotation']:7s} {row['file_bytes']:>9,d} B  KL {row['kl']:.5f}"
            f"  predicted {row['predicted_kl']:.5f}"
            f"  ratio {row['ratio']:.3f} [{low:.3f}, {high:.3f}] {mark}",
            flush=True,
        )


def main() -> None:
    """Run what the command line asks for; exit code 1 when `auto` loses beyond its interval."""
    options = _options()
    results: dict[str, Any] = {"machine": platform.processor() or platform.machine()}
    lost = 0
    for name in options.fixtures:
        began = time.process_time()
        with tempfile.TemporaryDirectory() as scratch:
            candidates, notes = twins(name, options, Path(scratch))
            results[name] = {"rotations": notes, "contests": []}
            for encoder, bits in itertools.product(options.encoders, options.budgets):
                found = contest(candidates, bits, encoder)
                if found is None:
                    continue
                _print(name, found)
                lost += found["auto_worse_beyond_interval"]
                results[name]["contests"].append(found)
                results[name]["cpu_seconds"] = time.process_time() - began
                _write(options.output, results)
    print(f"auto worse than unrotated beyond its interval: {lost}")
    raise SystemExit(1 if lost else 0)


def _write(folder: Path, results: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rotation.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "rotation.md").write_text(markdown(results))


def markdown(results: dict[str, Any]) -> str:
    """Return the results as a table: the unrotated KL, and ratios to it with 95 % intervals."""
    lines = [
        "| model | encoder | bits per weight | KL unrotated | folded | fused | `auto` takes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in results.items():
        for each in found["contests"] if isinstance(found, dict) else ():
            rows = {row["rotation"]: row for row in each["rows"]}
            low, high = rows["none"]["kl_interval_95"]
            lines.append(
                f"| {name} | {each['encoder']} | {each['bits_per_weight']:g}"
                f" | {rows['none']['kl']:.5f} [{low:.5f}, {high:.5f}]"
                f" | {_ratio(rows.get('folded'))} | {_ratio(rows.get('fused'))} | {each['auto']} |"
            )
    return "\n".join(lines) + "\n"


def _ratio(row: dict[str, Any] | None) -> str:
    if row is None:
        return "does not fit"
    low, high = row["ratio_interval_95"]
    return f"{row['ratio']:.2f} [{low:.2f}, {high:.2f}]"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fixtures-dir", type=Path, default=Path("../shared/fixtures"))
    parser.add_argument("--fixtures", nargs="*", default=FIXTURES)
    parser.add_argument("--budgets", nargs="*", type=float, default=BUDGETS)
    parser.add_argument("--encoders", nargs="*", type=Encoder, default=ENCODERS)
    kinds = (Rotation.FOLDED, Rotation.FUSED)
    parser.add_argument("--rotations", nargs="*", type=Rotation, default=kinds)
    parser.add_argument("--sequences", type=int, help="of 256 tokens for the statistics")
    parser.add_argument("--seed", type=int, default=0, help="of the signs")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
