r"""What each part of a compensated encoder wins, and what it costs.

    python -m bitbudget.workers.native.preload -m benchmarks.encoding \
        [--fixture FOLDER] [--modules 14]

For the first modules of a model, the two-sided objective 1/2 tr(B dW A dW^T) relative to what is
deployed, as a mean over modules, and the processor time a weight. Statistics come from text that
the model writes itself.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import Format, parse_format
from bitbudget.app.core.measurement import Encoder
from bitbudget.samples import sample_model
from bitbudget.workers.encoders.compensated import Feedback
from bitbudget.workers.encoders.descent import code_weight, default_sweeps
from bitbudget.workers.encoders.order import Order
from bitbudget.workers.encoders.registry import ModuleEncoder
from bitbudget.workers.encoders.target import Target
from bitbudget.workers.fisher import KroneckerTerm, collect_statistics
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.quantize.coding import float32_weight
from bitbudget.workers.running.tokens import SEQUENCE_LENGTH, default_tokens, sample_tokens

FORMATS: Final = tuple(map(parse_format, ("affine2g32", "affine3g64", "affine4g64", "affine6g64")))
SWEEPS: Final = (0, 1, 3, 8, 16)


@dataclass(frozen=True)
class Subject:
    """One module with what it is judged by."""

    weight: np.ndarray
    dtype: Dtype
    target: Target

    def coded(self, format_: Format, sweeps: int, *, ordered: bool) -> tuple[float, float]:
        """Return the objective, and the processor seconds a weight."""
        target = self.target
        order = Order.by_cost(target.moment, target.rows)
        if not ordered:
            order = Order(np.arange(len(order.rows)), np.arange(len(order.columns)))
        feedback = Feedback.against(order.across(target.moment), order.down(target.rows))
        terms = [order.term(term) for term in target.terms]
        weight = order.weight(self.weight)
        begun = time.process_time()
        part = code_weight(weight, (format_,), self.dtype, feedback, terms, sweeps=sweeps)[0]
        seconds = time.process_time() - begun
        cost = sum(KroneckerTerm(t.columns, t.rows).kl_nats(part.values - weight) for t in terms)
        return cost, seconds / weight.size


def subjects(folder: Path, most: int) -> Iterator[Subject]:
    """Yield the first matrices of a model that have statistics of a single use."""
    checkpoint = open_checkpoint(folder)
    inventory = build_inventory(checkpoint)
    tokens = sample_tokens(checkpoint, default_tokens(inventory.weights) // SEQUENCE_LENGTH, seed=0)
    with tempfile.TemporaryDirectory(prefix="bitbudget-encoding-") as scratch:
        statistics = collect_statistics(checkpoint, tokens, seed=0, scratch=Path(scratch))
        plain = [m for m in inventory.modules if len(m.shape) == 2]  # noqa: PLR2004 - a matrix
        found = [m for m in plain if len(statistics[m.path].terms) == 1]
        for module in found[:most]:
            weight = float32_weight(checkpoint, module)
            encoder = ModuleEncoder(statistics[module.path], Encoder.YAQA)
            yield Subject(weight, module.dtype, encoder.target((), len(weight)))


def main() -> None:
    """Print a table: a row for each way, a column for each format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fixture", type=Path, default=sample_model())
    parser.add_argument("--modules", type=int, default=14)
    options = parser.parse_args()
    ways = [(sweeps, ordered) for ordered in (False, True) for sweeps in SWEEPS]
    ratios = defaultdict(list)
    seconds = defaultdict(list)
    for subject in subjects(options.fixture, options.modules):
        for format_ in FORMATS:
            if subject.weight.shape[1] % format_.group_size:
                continue
            own = default_sweeps(subject.weight.shape[1])
            deployed, _ = subject.coded(format_, own, ordered=True)
            for way in ways:
                cost, spent = subject.coded(format_, way[0], ordered=way[1])
                ratios[way, format_].append(cost / deployed)
                seconds[way].append(spent)
    print("objective relative to what is deployed | " + " | ".join(map(str, FORMATS)) + " | ns")
    for way in ways:
        means = [f"{np.mean(ratios[way, format_]):.3f}" for format_ in FORMATS]
        name = f"{way[0]} sweeps, {'by cost' if way[1] else 'as they are'}"
        print(f"{name} | " + " | ".join(means) + f" | {1e9 * np.mean(seconds[way]):.0f}")


if __name__ == "__main__":
    main()
