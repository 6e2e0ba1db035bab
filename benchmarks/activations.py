"""What rounding each module's inputs to int8 costs: predicted from statistics, beside measured.

python -m benchmarks.activations MODEL
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitbudget.app.core.activations import INT8
from bitbudget.workers.curves.rounding import input_rounding_nats
from bitbudget.workers.evaluate.activations import rounded_inputs
from bitbudget.workers.evaluate.teacher import batches, teach, token_kl
from bitbudget.workers.evaluate.windows import rollout_windows
from bitbudget.workers.fisher import collect_statistics
from bitbudget.workers.models import open_checkpoint
from bitbudget.workers.models.inventory import build_inventory
from bitbudget.workers.running.float32 import load_float32

__all__ = ["Costs", "compared", "main"]


@dataclass(frozen=True, slots=True)
class Costs:
    """KL in nats per token of rounding one module's inputs alone."""

    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        """Return the prediction over the measurement."""
        return self.predicted / self.measured


def predicted_costs(folder: Path, *, windows: int) -> dict[str, float]:
    """Return by module what the statistics of so much text of the model predict."""
    text = rollout_windows(folder, windows, seed=1, length=128)
    known = collect_statistics(folder, text, seed=0)
    checkpoint = open_checkpoint(folder)
    costs = {
        module.path: input_rounding_nats(
            list(checkpoint.parts(module.path)), module.dtype, known[module.path]
        )
        for module in build_inventory(checkpoint).modules
        if module.path in known
    }
    return {path: cost for path, cost in costs.items() if cost}


def compared(folder: Path, *, windows: int = 32) -> tuple[dict[str, Costs], Costs]:
    """Return the costs of every module alone, and of all modules together.

    Predictions are of some windows of the model's text, KL is measured on others.
    """
    predicted = predicted_costs(folder, windows=windows)
    model = load_float32(folder)
    text = rollout_windows(folder, windows, seed=5, length=128)
    taught = [teach(model, part, "exact") for part in batches(model, text)]

    def kl(paths: Sequence[str]) -> float:
        with rounded_inputs(model, paths, INT8):
            return float(np.mean([token_kl(batch, model, "rounded").mean() for batch in taught]))

    each = {path: Costs(cost, kl([path])) for path, cost in predicted.items()}
    return each, Costs(sum(predicted.values()), kl(list(predicted)))


def main(model: str) -> None:
    """Print as JSON how the predictions of single modules and of all compare."""
    each, whole = compared(Path(model))
    ratios = np.array([costs.ratio for costs in each.values()])
    found = {
        "modules": len(each),
        "predicted over measured, all together": whole.ratio,
        "median module": float(np.median(ratios)),
        "least": float(ratios.min()),
        "most": float(ratios.max()),
        "share within 0.8 to 1.25": float(np.mean((ratios > 0.8) & (ratios < 1.25))),  # noqa: PLR2004 - the target
        "KL of all together": whole.measured,
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
