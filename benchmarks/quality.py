"""KL at equal bytes: ours by every encoder and sensitivity, beside what others make of a model.

`python benchmarks/quality.py` measures every fixture at every budget and prints a table; JSON and
a picture of KL against bytes go to the output folder. Statistics come from text the model writes,
those of the peers that need a text from the calibration text; KL is measured on held-out text.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from app.core.allocate import allocate
from app.core.errors import InfeasibleBudgetError
from app.core.formats import ALL_FORMATS, KEEP, Format
from app.core.inventory import Inventory
from app.core.measurement import Curve, Encoder, Measurement, Sensitivity
from app.core.requests import AllocationRequest
from benchmarks.drawing import picture
from workers.curves import as_float32, kl_curve
from workers.evaluate import Evaluation, compare
from workers.fisher import Statistics, collect_statistics, default_tokens, sample_tokens
from workers.fisher.tokens import SEQUENCE_LENGTH
from workers.models import Checkpoint, build_inventory, open_checkpoint
from workers.verify import coded_weights

FIXTURES = ("tinyqwen3-dense", "tinyqwen3-moe", "babyllama105-llama", "stories260K-llama")
BUDGETS = (2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0)
PEERS = (
    *(f"uniform:{bits}:{group}" for bits in (3, 4, 5, 6, 8) for group in (32, 64)),
    *(f"recipe:mixed_{name}" for name in ("2_6", "3_4", "3_6", "4_6")),
    "dynamic:4:5:5.0",
    "dynamic:4:8:5.5",
    "dynamic:3:5:4.0",
    "gptq:4:64:4",
    "gptq:4:64:6",
    "gptq:4:32:4",
    "gptq:8:64:8",
)


@dataclass
class Model:
    """One fixture with everything that is computed once."""

    checkpoint: Checkpoint
    inventory: Inventory
    statistics: Statistics
    evaluation: Evaluation
    measurements: dict[str, Measurement] = field(default_factory=dict)
    coded: dict[tuple[str, str, Format], np.ndarray] = field(default_factory=dict)

    def weights(self, path: str) -> np.ndarray:
        """Return a module's float32 weight."""
        module = self.inventory.module(path)
        parts = [as_float32(part, module.dtype) for part in self.checkpoint.parts(path)]
        return np.stack(parts).reshape(module.shape)

    def measurement(self, encoder: Encoder, cost: str) -> Measurement:
        """Return curves of `encoder`, priced by `kronecker`, `alpha` or `nrmse` (weights only)."""
        key = f"{encoder.value} {cost}"
        if key not in self.measurements:
            self.measurements[key] = self._measure(encoder, cost)
        return self.measurements[key]

    def _measure(self, encoder: Encoder, cost: str) -> Measurement:
        if cost != "kronecker":
            exact = self.measurement(encoder, "kronecker")
            curves = tuple(_priced(curve, cost) for curve in exact.curves)
            return replace(exact, curves=curves)
        curves = tuple(self._curve(path, encoder) for path in self._paths())
        return Measurement(
            self.checkpoint.identity(), self.inventory, encoder, Sensitivity.FISHER, curves, "self"
        )

    def _paths(self) -> list[str]:
        return [module.path for module in self.inventory.modules]

    def _curve(self, path: str, encoder: Encoder) -> Curve:
        module, known = self.inventory.module(path), self.statistics[path]
        formats = module.legal_formats(ALL_FORMATS)
        points = kl_curve(module, self.weights(path), formats, encoder, known)
        return Curve(path, known.alpha_nats, tuple(points))

    def evaluate(self, formats: dict[str, Format], encoder: Encoder) -> dict[str, Any]:
        """Return the report of the original with its modules replaced by their coded values."""
        model = self.evaluation.original
        self.evaluation.taught  # noqa: B018 - before the weights are replaced
        arrays = {path: self._values(path, formats[path], encoder) for path in formats}
        model.load_weights([(f"{p}.weight", mx.array(a)) for p, a in arrays.items()], strict=False)
        report = self.evaluation.sets(model, "ours")["text"]
        originals = [(f"{path}.weight", mx.array(self.weights(path))) for path in formats]
        model.load_weights(originals, strict=False)
        return report

    def _values(self, path: str, format_: Format, encoder: Encoder) -> np.ndarray:
        if format_ == KEEP:
            return self.weights(path)
        key = (path, encoder.value, format_)
        if key not in self.coded:
            module = self.inventory.module(path)
            found = coded_weights(
                module, self.weights(path), [format_], encoder, self.statistics[path]
            )
            self.coded[key] = found[format_]
        return self.coded[key]


def _priced(curve: Curve, cost: str) -> Curve:
    """Return the curve priced by alpha t2, or by the unweighted relative error, as MINT does."""
    points = tuple(
        replace(p, kl_nats=curve.alpha_nats * p.t2 if cost == "alpha" else p.t2**0.5)
        for p in curve.points
    )
    return replace(curve, points=points)


def ours(
    model: Model, nbytes: int, encoder: Encoder, cost: str, name: str
) -> dict[str, Any] | None:
    """Return our allocation within `nbytes`, evaluated; None when nothing fits."""
    measurement = model.measurement(encoder, cost)
    try:
        answer = allocate(measurement, AllocationRequest(budget=nbytes, sqnr_floor_db=0))
    except InfeasibleBudgetError:
        return None
    report = model.evaluate(dict(answer.formats), encoder)
    predicted = answer.predicted_kl_nats_per_token if cost == "kronecker" else None
    return _row(name, answer.file_bytes, model, report) | {"predicted": predicted}


def _row(name: str, nbytes: int, model: Model, report: dict[str, Any]) -> dict[str, Any]:
    return {
        "method": name,
        "bytes": nbytes,
        "bits_per_weight": 8 * nbytes / model.inventory.weights,
        "kl": report["kl_nats_per_token"],
        "interval": report["kl_interval_95"],
        "report": report,
    }


def prepare(folder: Path, text: Path, scratch: Path) -> Model:
    """Open a fixture, write its text and collect its statistics."""
    checkpoint = open_checkpoint(folder)
    inventory = build_inventory(checkpoint)
    count = default_tokens(inventory.weights) // SEQUENCE_LENGTH
    tokens = sample_tokens(checkpoint, count, seed=0)
    statistics = collect_statistics(checkpoint, tokens, seed=0, scratch=scratch)
    return Model(checkpoint, inventory, statistics, Evaluation(folder, text=text))


def peers(model: Model, methods: Sequence[str], text: Path, out: Path) -> list[dict[str, Any]]:
    """Make every peer's checkpoint in a process of its own, and evaluate it."""
    script = Path(__file__).with_name("peers.py")
    folder = str(model.checkpoint.folder)
    with (out.parent / "peers.log").open("w") as log:
        subprocess.run(
            [sys.executable, str(script), folder, str(text), str(out), *methods],
            check=True,
            stderr=log,
        )
    rows = []
    for method in methods:
        made = out / method
        if made.is_dir():
            nbytes = sum(file.stat().st_size for file in made.glob("*.safetensors"))
            rows.append(_row(method, nbytes, model, model.evaluation.report(made)))
    return rows


def one_fixture(
    name: str, options: argparse.Namespace, scratch: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of all methods and the comparisons at each peer's bytes."""
    texts = options.fixtures_dir / "text"
    began = time.perf_counter()
    held_out = texts / "tinystories_valid_heldout.txt"
    model = prepare(options.fixtures_dir / name, held_out, scratch)
    print(f"# {name}: statistics in {time.perf_counter() - began:.0f} s", flush=True)
    calibration = texts / "tinystories_valid_calib.txt"
    rows = peers(model, options.peers, calibration, scratch / "peers")
    for folder in options.checkpoint:
        nbytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        rows.append(_row(folder.name, nbytes, model, model.evaluation.report(folder)))
    compared = [found for row in rows if (found := against(model, row)) is not None]
    fixed = sum(array.nbytes for array in model.inventory.passthrough)
    for bits in options.budgets:
        nbytes = int(bits * model.inventory.weights / 8) + fixed
        for encoder, cost in options.ours:
            label = f"ours {encoder.value} {cost}"
            found = ours(model, nbytes, encoder, cost, label)
            rows.extend([found] if found else [])
    return rows, compared


def against(model: Model, row: dict[str, Any]) -> dict[str, Any] | None:
    """Return our default at a peer's bytes, with the ratio of KL on the same resamples."""
    found = ours(model, row["bytes"], Encoder.YAQA, "kronecker", "ours")
    if found is None:
        return None
    result = {
        "peer": row["method"],
        "bytes": row["bytes"],
        "bits_per_weight": row["bits_per_weight"],
        "peer_kl": row["kl"],
        "our_kl": found["kl"],
        "predicted": found["predicted"],
        **compare(found["report"], row["report"]),
    }
    low, high = result["ratio_interval_95"]
    print(
        f"{row['method']:20s} {row['bits_per_weight']:5.2f} bpw  peer {row['kl']:.5f}"
        f"  ours {found['kl']:.5f} (predicted {found['predicted']:.5f})"
        f"  ratio {result['ratio']:.3f} [{low:.3f}, {high:.3f}]",
        flush=True,
    )
    return result


def main() -> None:
    """Run what the command line asks for."""
    options = _options()
    results = {}
    for name in options.fixtures:
        with tempfile.TemporaryDirectory() as scratch:
            rows, compared = one_fixture(name, options, Path(scratch))
        for row in rows:
            low, high = row["interval"]
            print(
                f"{row['method']:24s} {row['bytes']:>10d} {row['bits_per_weight']:6.3f}"
                f"  {row['kl']:.5f} [{low:.5f}, {high:.5f}]"
            )
        short = [{key: v for key, v in row.items() if key != "report"} for row in rows]
        results[name] = {"rows": short, "at_equal_bytes": compared}
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / f"quality-{name}.svg").write_text(picture(name, rows))
        (options.output / "quality.json").write_text(json.dumps(results, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fixtures-dir", type=Path, default=Path("../shared/fixtures"))
    parser.add_argument("--fixtures", nargs="*", default=FIXTURES)
    parser.add_argument("--budgets", nargs="*", type=float, default=BUDGETS)
    parser.add_argument("--peers", nargs="*", default=PEERS)
    parser.add_argument(
        "--checkpoint", nargs="*", type=Path, default=[], help="made elsewhere (mlx-optiq, ...)"
    )
    parser.add_argument("--encoders", nargs="*", type=Encoder, default=tuple(Encoder))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    options.ours = [(encoder, "kronecker") for encoder in options.encoders]
    options.ours += [(e, "alpha") for e in options.encoders if e is Encoder.MINMAX]
    options.ours += [(e, "nrmse") for e in options.encoders if e is Encoder.MINMAX]
    return options


if __name__ == "__main__":
    main()
