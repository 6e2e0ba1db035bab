"""Processor seconds of each step of measuring and coding one model.

    python -m bitbudget.workers.native.preload -m benchmarks.steps MODEL [--home FOLDER] [--exact 3]

One line of JSON for each step: the model's own text, the Fisher statistics, the curves of all
modules, and coding the layers in sequence in 4 bits. `passes` is the ratio to one float32 forward
and backward pass over as many tokens with all gradients, from one sequence. With `--home` text and
statistics are kept, and a second run begins with the curves. `--exact` also codes that many layers
whole in every format, with as many sweeps as stored codes get, and says how far the curves are off.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx import nn

from bitbudget.app.core.formats import KEEP, Format, parse_format
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.measurement import Curve, Encoder, Sensitivity
from bitbudget.app.core.requests import Rotation
from bitbudget.workers.encoders.descent import default_sweeps
from bitbudget.workers.encoders.registry import ModuleEncoder
from bitbudget.workers.fisher import Statistics, collect_statistics
from bitbudget.workers.models import Checkpoint, build_inventory, open_checkpoint
from bitbudget.workers.pipeline.measuring.curve import CurveTask
from bitbudget.workers.pipeline.measuring.curves import curves_here
from bitbudget.workers.pipeline.options import MeasureOptions
from bitbudget.workers.quantize.coding import arrays_alone, float32_weight
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.tokens import SEQUENCE_LENGTH, default_tokens, sample_tokens
from bitbudget.workers.sequential import Plan, code_sequentially

_FORMAT = parse_format("affine4g64")


class Steps:
    """Times steps and prints them."""

    def __init__(self) -> None:
        self.pass_s = 0.0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Print what the block took."""
        cpu, wall = _cpu_s(), time.monotonic()
        yield
        taken = {"cpu_s": _cpu_s() - cpu, "wall_s": time.monotonic() - wall}
        if self.pass_s:
            taken["passes"] = taken["cpu_s"] / self.pass_s
        _print(name, taken)

    def measure_pass(self, folder: Path, tokens: np.ndarray) -> None:
        """Time a forward and backward pass over one sequence, for as many as there are."""
        model, ids = load_float32(folder), mx.array(tokens[:1])

        def loss(model: nn.Module) -> mx.array:
            logits = model(ids[:, :-1])
            return nn.losses.cross_entropy(logits, ids[:, 1:], reduction="sum")

        mx.eval(model.parameters())
        begun = _cpu_s()
        mx.eval(nn.value_and_grad(model, loss)(model))
        self.pass_s = (_cpu_s() - begun) * len(tokens)
        _print("forward and backward", {"cpu_s": self.pass_s})


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _print(name: str, numbers: dict[str, float]) -> None:
    print(json.dumps({"step": name} | {k: round(v, 3) for k, v in numbers.items()}), flush=True)


def run(folder: Path, home: Path, exact_layers: int) -> None:
    """Run and print every step."""
    steps, checkpoint = Steps(), open_checkpoint(folder)
    inventory = build_inventory(checkpoint)
    kept = home / "tokens.npy"
    if not kept.is_file():
        home.mkdir(parents=True, exist_ok=True)
        with steps.step("text"):
            count = default_tokens(inventory.weights) // SEQUENCE_LENGTH
            np.save(kept, sample_tokens(folder, count, seed=0))
    tokens = np.load(kept)
    steps.measure_pass(folder, tokens)
    with steps.step("statistics"):
        statistics = collect_statistics(folder, tokens, seed=0, scratch=home)
    options = MeasureOptions(Encoder.YAQA, Sensitivity.FISHER, Rotation.NONE, None, 0)
    tasks = [
        CurveTask(module, options, 1.0, checkpoint.norm_gains.get(module.path))
        for module in inventory.modules
    ]
    with steps.step("curves"):
        curves = {curve.path: curve for curve in curves_here(checkpoint, statistics, tasks)}
    errors = [max(point.t2_relative_error for point in curve.points) for curve in curves.values()]
    _print("standard errors", {"median": float(np.median(errors)), "most": max(errors)})
    with steps.step("coding in sequence"), tempfile.TemporaryDirectory() as place:
        code_sequentially(folder, _plan(checkpoint, inventory, statistics), Path(place))
    for layer in _spread(inventory, exact_layers):
        _compare(checkpoint, [m for m in inventory.modules if layer in m.path], statistics, curves)


def _plan(checkpoint: Checkpoint, inventory: Inventory, statistics: Statistics) -> Plan:
    def alone(module: Module, format_: Format) -> dict[str, np.ndarray]:
        return arrays_alone(checkpoint, module, format_, Encoder.YAQA, statistics)

    formats = {
        module.path: _FORMAT if _FORMAT in module.legal_formats((_FORMAT,)) else KEEP
        for module in inventory.modules
    }
    return Plan(inventory, formats, Encoder.YAQA, statistics, alone)


def _spread(inventory: Inventory, count: int) -> list[str]:
    """Return parts of paths that name `count` layers from the first to the last."""
    found = {module.path.split(".layers.")[-1].split(".")[0] for module in inventory.modules}
    numbers = sorted(int(name) for name in found if name.isdecimal())
    at = np.linspace(0, len(numbers) - 1, count).round().astype(int)
    return [f".layers.{numbers[i]}." for i in at]


def _compare(
    checkpoint: Checkpoint,
    modules: list[Module],
    statistics: Statistics,
    curves: dict[str, Curve],
) -> None:
    """Print the mean over formats of curve over exact KL, and the spread of its logarithm."""
    for module in modules:
        known, weight = statistics[module.path], float32_weight(checkpoint, module)
        points = [p for p in curves[module.path].points if str(p.format).startswith("affine")]
        if not points:
            continue
        coder, formats = ModuleEncoder(known, Encoder.YAQA), [p.format for p in points]
        begun, sweeps = _cpu_s(), default_sweeps(weight.shape[-1])
        coded = coder.code(weight, module.dtype, formats, (), sweeps=sweeps)
        exact = [known.kl_nats(coded[format_].values - weight) for format_ in formats]
        off = np.log([p.kl_nats / kl for p, kl in zip(points, exact, strict=True)])
        _print(
            module.path,
            {
                "exact_cpu_s": _cpu_s() - begun,
                "over_exact": float(np.exp(off.mean())),
                "spread": float(off.std()),
            },
        )


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--exact", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run(options.model, options.home or Path(temporary), options.exact)


if __name__ == "__main__":
    main()
