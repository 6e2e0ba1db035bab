from __future__ import annotations

import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from bitbudget.app.contract.tasks import MeasureTask
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.measurement import Encoder, Measurement
from bitbudget.workers.models import Checkpoint, build_inventory, open_checkpoint
from bitbudget.workers.pipeline.tasks import run_task
from bitbudget.workers.sweep import kernel, measure_weight
from tests.workers.models.fp8 import write_deepseek
from tests.workers.models.tiny import write_folder


def measured(folder: Path, home: Path, encoder: Encoder = Encoder.CAREFUL) -> Measurement:
    task = MeasureTask(home=str(home), model=str(folder), encoder=encoder, sensitivity="weights")
    result = run_task(task, lambda _: None).model_dump(mode="json")
    return Measurement.from_json(Path(result["measurement"]).read_bytes())


def decoded_twin(folder: Path, twin: Path) -> Path:
    """Write the same model as mlx-lm decodes it: bf16 weights under mlx names."""
    checkpoint = open_checkpoint(folder)
    config = {k: v for k, v in checkpoint.config.items() if k != "quantization_config"}
    return write_folder(twin, config, dict(checkpoint.weights()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_deepseek(tmp_path_factory.mktemp("fp8") / "model")


@pytest.mark.parametrize("shards", [1, 3])
def test_decoded_weights_give_the_curves_of_their_bf16_twin(tmp_path: Path, shards: int) -> None:
    folder = write_deepseek(tmp_path / "fp8", shards=shards)
    twin = decoded_twin(folder, tmp_path / "twin")
    for encoder in (Encoder.MINMAX, Encoder.CAREFUL):
        found = measured(folder, tmp_path / "home", encoder)
        expected = measured(twin, tmp_path / "home", encoder)
        assert len(found.curves) == 23
        assert found.curves == expected.curves
    stacked = next(m for m in found.inventory.modules if m.path.endswith("switch_mlp.up_proj"))
    assert (stacked.shape, stacked.dtype) == ((4, 64, 64), Dtype.BF16)


def test_stacked_experts_are_decoded_one_by_one(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    path = "model.layers.1.mlp.switch_mlp.down_proj"
    assert checkpoint.sources(path) is None
    whole = checkpoint.weights()[f"{path}.weight"]
    parts = list(checkpoint.parts(path))
    assert [part.shape for part in parts] == [(64, 64)] * 4
    for index, part in enumerate(parts):
        assert mx.array_equal(mx.array(part), whole[index].view(mx.uint16))


def test_sanitize_runs_once_for_all_modules(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(folder)
    modules = build_inventory(checkpoint).modules
    calls = []
    sanitized = Checkpoint.sanitized

    def counted(self: Checkpoint) -> object:
        calls.append(1)
        return sanitized(self)

    monkeypatch.setattr(Checkpoint, "sanitized", counted)
    first = {module.path: list(checkpoint.parts(module.path)) for module in modules}
    runs = len(calls)
    assert runs <= 2
    again = {module.path: list(checkpoint.parts(module.path)) for module in modules}
    assert all(
        (a == b).all() for path in first for a, b in zip(first[path], again[path], strict=True)
    )


def test_a_killed_run_finds_its_computed_modules(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(folder, tmp_path)
    before = measured(folder, tmp_path)
    for done in (tmp_path / "measurements").glob("*/measurement.json"):
        shutil.rmtree(done.parent)
    monkeypatch.setattr(kernel, "kernels", None)  # whoever measured would fail
    assert measured(folder, tmp_path) == before


def test_computed_modules_have_the_numbers_of_one_by_one(folder: Path, tmp_path: Path) -> None:
    found = {curve.path: curve for curve in measured(folder, tmp_path).curves}
    checkpoint = open_checkpoint(folder)
    for module in build_inventory(checkpoint).modules:
        formats = tuple(f for f in module.legal_formats() if f.bits < 16)
        errors = measure_weight(
            list(checkpoint.parts(module.path)), module.dtype, formats, Encoder.CAREFUL
        )
        for format_ in formats:
            assert found[module.path].point(format_).t2 == errors.t2[format_]
