"""Real models from the smallest budget to 8 bits: exact bytes, stock loading, falling KL."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import pytest

from bitbudget.app.contract.events import Event
from bitbudget.app.contract.tasks import MeasureTask
from bitbudget.app.core.baselines import uniform_formats
from bitbudget.app.core.errors import InfeasibleBudgetError
from bitbudget.app.core.formats import KEEP, parse_format
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement, Sensitivity
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.solving import allocate_manifest
from bitbudget.workers.evaluate import Evaluator
from bitbudget.workers.models import Checkpoint, open_checkpoint
from bitbudget.workers.pipeline.steps.baseline import uniform_manifest
from bitbudget.workers.pipeline.tasks import run_task
from bitbudget.workers.quantize import write_checkpoint

ROLLOUTS = 2


def ignore(*_: object) -> None:
    """Take events and progress."""


@dataclass
class Measured:
    """A model measured without data."""

    checkpoint: Checkpoint
    measurement: Measurement

    @classmethod
    def of(cls, model: Path, home: Path) -> Measured:
        events: list[Event] = []
        task = MeasureTask(home=str(home), model=str(model), sensitivity=Sensitivity.WEIGHTS)
        result = run_task(task, events.append).model_dump(mode="json")
        assert [event.name for event in events if event.kind == "artifact"] == [
            "inventory.json",
            "measurement.json",
        ]
        stored = Path(result["measurement"]).read_bytes()
        return cls(open_checkpoint(model), Measurement.from_json(stored))

    def smallest_bytes(self) -> int:
        with pytest.raises(InfeasibleBudgetError) as caught:
            self.manifest(1)
        return caught.value.minimum_bytes

    def uniform_bytes(self, name: str) -> int:
        inventory = self.measurement.inventory
        formats = uniform_formats(inventory, parse_format(name))
        return plan_checkpoint(inventory).file_bytes(formats)

    def manifest(self, budget: int) -> Manifest:
        return allocate_manifest(self.measurement, AllocationRequest(budget=budget))

    def write(self, manifest: Manifest, output: Path) -> Path:
        written = write_checkpoint(
            self.checkpoint, self.measurement.inventory, manifest, output, progress=ignore
        )
        sizes = [path.stat().st_size for path in output.glob("*.safetensors")]
        assert sum(sizes) == written.file_bytes == manifest.file_bytes <= manifest.budget_bytes
        return output


def assert_stock_generates(folder: Path, *, has_experts: bool) -> None:
    mlx_lm = importlib.import_module("mlx_lm")
    model, tokenizer = mlx_lm.load(str(folder))
    if has_experts:
        model.set_dtype(mx.float32)
    assert mlx_lm.generate(model, tokenizer, prompt="Once upon a time", max_tokens=4)


def test_five_budgets_of_the_sample_model(sample_model: Path, tmp_path: Path) -> None:
    sample = Measured.of(sample_model, tmp_path / "home")
    evaluation = Evaluator(sample_model, rollouts=ROLLOUTS, seed=1)
    smallest, largest = sample.smallest_bytes(), sample.uniform_bytes("affine8g64")
    reports = []
    for step in range(5):
        budget = smallest + (largest - smallest) * step // 4
        folder = sample.write(sample.manifest(budget), tmp_path / str(budget))
        assert_stock_generates(folder, has_experts=False)
        reports.append(evaluation.report(folder))
    for worse, better in pairwise(reports):
        assert better["kl_nats_per_token"] < worse["kl_nats_per_token"]
        assert better["kl_interval_95"][0] < worse["kl_interval_95"][1]
    assert reports[-1]["kl_nats_per_token"] < 1e-3

    uniform = uniform_manifest(sample.measurement, parse_format("affine4g64"))
    rival = evaluation.report(sample.write(uniform, tmp_path / "uniform"))
    assert rival["kl_nats_per_token"] > reports[2]["kl_nats_per_token"]


@pytest.mark.parametrize("name", ["tinyqwen3-moe", "stories260K-llama", "babyllama105-llama"])
def test_budgets_of_other_models(name: str, fixtures_dir: Path, tmp_path: Path) -> None:
    model = Measured.of(fixtures_dir / name, tmp_path / "home")
    inventory = model.measurement.inventory
    smallest = model.smallest_bytes()
    largest = model.uniform_bytes("affine8g32" if "llama" in name else "affine8g64")
    for budget in (smallest, (smallest + largest) // 2, largest):
        folder = model.write(model.manifest(budget), tmp_path / str(budget))
        assert_stock_generates(folder, has_experts=inventory.architecture.experts > 0)
    kept = {
        path for path, choice in model.manifest(largest).modules.items() if choice.format == KEEP
    }
    odd = {module.path for module in inventory.modules if module.in_features % 32}
    assert odd <= kept
    assert bool(odd) == (name == "stories260K-llama")
