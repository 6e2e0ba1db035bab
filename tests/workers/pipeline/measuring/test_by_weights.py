from __future__ import annotations

from pathlib import Path

import pytest

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.encoders import Encoder, encoder_by_weights
from bitbudget.app.core.formats import KEEP
from bitbudget.app.core.measurement import Sensitivity
from bitbudget.app.core.requests import Rotation
from bitbudget.workers.models import Checkpoint, build_inventory, open_checkpoint
from bitbudget.workers.pipeline.measuring.by_weights import StreamedModule, measure_streamed
from bitbudget.workers.pipeline.options import MeasureOptions
from bitbudget.workers.streaming.digest import digest_of_parts
from bitbudget.workers.sweep import measure_weight


def options(encoder: Encoder = Encoder.CAREFUL, features: str = "default") -> MeasureOptions:
    return MeasureOptions(
        encoder, Sensitivity.WEIGHTS, Rotation.NONE, None, seed=0, features=features
    )


def measured(
    checkpoint: Checkpoint, how: MeasureOptions, folder: Path
) -> tuple[dict[str, StreamedModule], list[tuple[int, int, str]]]:
    seen: list[tuple[int, int, str]] = []
    modules = build_inventory(checkpoint).modules
    found = measure_streamed(
        checkpoint,
        modules,
        how,
        cache=folder / "tensors.sqlite3",
        progress=lambda *state: seen.append(state),
    )
    return {item.module.path: item for item in found}, seen


def assert_as_one_by_one(checkpoint: Checkpoint, found: dict[str, StreamedModule]) -> None:
    for module in build_inventory(checkpoint).modules:
        parts = list(checkpoint.parts(module.path))
        formats = module.legal_formats()
        gains = checkpoint.norm_gains.get(module.path)
        expected = measure_weight(parts, module.dtype, formats, Encoder.CAREFUL, gains=gains)
        assert found[module.path].errors == expected
        assert found[module.path].digest == digest_of_parts(parts)


def test_streaming_gives_the_numbers_of_one_by_one(sample_model: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(sample_model)
    found, seen = measured(checkpoint, options(), tmp_path)
    assert_as_one_by_one(checkpoint, found)
    weights = sum(module.weights for module in build_inventory(checkpoint).modules)
    assert seen[-1][:2] == (2 * weights, 2 * weights)


def test_stacked_experts_are_streamed_too(fixtures_dir: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(fixtures_dir / "tinyqwen3-moe")
    found, _ = measured(checkpoint, options(), tmp_path)
    assert_as_one_by_one(checkpoint, found)
    assert any(len(item.module.shape) > 2 for item in found.values())


def test_a_weight_that_the_model_computes_is_measured_as_computed(
    sample_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(sample_model)
    whole, _ = measured(checkpoint, options(), tmp_path)
    monkeypatch.setattr(Checkpoint, "sources", lambda *_: None)
    computed, seen = measured(checkpoint, options(), tmp_path)
    assert computed == whole
    assert seen[-1][0] == seen[-1][1]


def test_curves_carry_alpha_digest_and_uncertainty(sample_model: Path, tmp_path: Path) -> None:
    found, _ = measured(open_checkpoint(sample_model), options(), tmp_path)
    item = found["model.embed_tokens"]
    curve = item.curve(2.0)
    assert curve.digest == item.digest
    assert curve.points[-1].format == KEEP
    for point in curve.points[:-1]:
        assert point.t2 == item.errors.t2[point.format]
        assert point.kl_nats == 2 * point.t2
        uncertain = item.errors.t2_relative_error.get(point.format, 0.0)
        assert point.t2_relative_error == uncertain
    assert item.module.dtype is Dtype.BF16
    assert "effective_rank" in curve.features


def test_full_features_reach_the_curves(sample_model: Path, tmp_path: Path) -> None:
    found, _ = measured(open_checkpoint(sample_model), options(features="full"), tmp_path)
    assert all("stable_rank" in item.errors.features for item in found.values())


def test_compensated_encoders_are_stood_for_by_careful() -> None:
    by_weights = [encoder_by_weights(encoder) for encoder in (Encoder.YAQA, Encoder.GPTQ)]
    assert by_weights == [Encoder.CAREFUL, Encoder.CAREFUL]
    assert encoder_by_weights(Encoder.MINMAX) is Encoder.MINMAX
