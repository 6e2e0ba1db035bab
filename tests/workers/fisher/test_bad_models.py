"""Models whose activations or gradients are odd: measured soundly, or refused by name."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.app.contract.events import Event
from bitbudget.app.contract.tasks import MeasureTask
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.formats import KEEP, Format, parse_format
from bitbudget.app.core.inventory import Module
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.curves.exact import kl_curve
from bitbudget.workers.encoders.number_formats import dequantize
from bitbudget.workers.fisher import ModuleStatistics, collect_statistics
from bitbudget.workers.models import Checkpoint, build_inventory, open_checkpoint
from bitbudget.workers.native.arrays import as_float32
from bitbudget.workers.quantize.coding import stored_arrays
from bitbudget.workers.running.float32 import load_float32
from tests.support.child import run_child
from tests.workers.models.tiny import write_folder, write_tiny

FORMATS = tuple(map(parse_format, ("affine2g64", "affine3g64", "affine4g32", "affine8g64")))
Weights = dict[str, mx.array]


def altered(
    folder: Path, architecture: str, change: Callable[[Weights], Weights], **config: object
) -> Path:
    """Write a tiny model of random weights and change them."""
    sound = write_tiny(folder / "sound", architecture, **config)
    weights = dict(mx.load(str(sound / "model.safetensors")))  # type: ignore[arg-type]
    config = json.loads((sound / "config.json").read_text())
    return write_folder(folder / "odd", config, change(weights))


def scaled(weights: Weights, part: str, factor: float, dtype: mx.Dtype) -> Weights:
    """Return the weights in `dtype`, those with `part` in their name scaled."""
    return {
        name: (array.astype(mx.float32) * (factor if part in name else 1)).astype(dtype)
        for name, array in weights.items()
    }


def some_tokens(count: int = 4, length: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 128, (count, length)).astype(np.int32)


def test_activations_that_overflow_name_the_module(tmp_path: Path) -> None:
    model = altered(tmp_path, "llama", lambda w: scaled(w, "layers.1.mlp", 1e22, mx.bfloat16))
    with pytest.raises(InvalidModelError, match=r"input of model\.layers\.1\.mlp\.down_proj"):
        collect_statistics(model, some_tokens(), seed=0)


def stored_values(
    checkpoint: Checkpoint, module: Module, known: ModuleStatistics
) -> dict[Format, np.ndarray]:
    parts = checkpoint.parts(module.path)
    formats = [format_ for format_ in FORMATS if format_ != KEEP]
    found = stored_arrays(module, parts, formats, Encoder.YAQA, known)
    return {format_: dequantize(arrays, format_, module.dtype) for format_, arrays in found.items()}


def test_gradients_that_overflow_in_half_precision_are_taken_in_float32(tmp_path: Path) -> None:
    model = altered(tmp_path, "llama", lambda w: scaled(w, "_proj", 2e4, mx.float16))
    half = load_float32(model)
    half.set_dtype(mx.float16)
    assert not bool(mx.isfinite(half(mx.array(some_tokens()))).all())
    statistics = collect_statistics(model, some_tokens(), seed=0, source_dtype=mx.float16)
    checkpoint = open_checkpoint(model)
    for module in build_inventory(checkpoint).modules:
        known = statistics[module.path]
        assert np.isfinite(known.alpha_nats)
        weight = np.stack([as_float32(p, module.dtype) for p in checkpoint.parts(module.path)])
        points = kl_curve(module, weight.reshape(module.shape), FORMATS, Encoder.YAQA, known)
        coded = stored_values(checkpoint, module, known)
        for point in points[:-1]:
            assert 0 <= point.t2 < 1
            assert np.isfinite(point.kl_nats)
            assert np.isfinite(coded[point.format]).all()


def never_chosen(weights: Weights) -> Weights:
    """Give a router two pairs of opposite rows and a row of zeros: that one is never in the top 2.

    Of a pair one score is above zero, so the two best are.
    """
    for name, gate in weights.items():
        if name.endswith("mlp.gate.weight"):
            first, second = gate[0], gate[1]
            rows = [first, -first, second, -second, mx.zeros_like(first)]
            weights[name] = mx.stack(rows)
    return weights


def test_an_expert_that_no_token_reaches_is_coded_as_well_as_the_others(tmp_path: Path) -> None:
    model = altered(tmp_path, "qwen3_moe", never_chosen, num_experts=5)
    statistics = collect_statistics(model, some_tokens(), seed=0)
    checkpoint = open_checkpoint(model)
    stacked = [m for m in build_inventory(checkpoint).modules if len(m.shape) == 3]
    assert stacked
    for module in stacked:
        known = statistics[module.path]
        assert known.tokens[4] == 0 < known.tokens[:4].min()
        weight = np.stack([as_float32(p, module.dtype) for p in checkpoint.parts(module.path)])
        weight = weight.reshape(module.shape)
        coded = stored_values(checkpoint, module, known)
        for values in coded.values():
            t2 = np.square(values - weight).sum((1, 2)) / np.square(weight).sum((1, 2))
            assert t2[4] < 2 * t2[:4].max()


def test_inputs_that_never_change_give_a_singular_hessian_that_is_coded(tmp_path: Path) -> None:
    def constant(weights: Weights) -> Weights:
        name = "model.embed_tokens.weight"
        weights[name] = mx.broadcast_to(weights[name][:1], weights[name].shape)
        return weights

    model = altered(tmp_path, "llama", constant, tie_word_embeddings=False)
    statistics = collect_statistics(model, some_tokens(), seed=0)
    known = statistics["model.layers.0.self_attn.v_proj"]
    assert np.linalg.matrix_rank(known.terms[0].columns, tol=1e-5) == 1
    assert known.alpha_nats > 0
    checkpoint = open_checkpoint(model)
    module = build_inventory(checkpoint).module(known.path)
    weight = as_float32(next(iter(checkpoint.parts(known.path))), module.dtype)
    weight = weight.reshape(module.shape)
    points = kl_curve(module, weight, FORMATS, Encoder.YAQA, known)
    plain = kl_curve(module, weight, FORMATS, Encoder.CAREFUL, known)
    for point, other in zip(points[:-1], plain[:-1], strict=True):
        assert point.t2 < 1
        assert point.kl_nats < other.kl_nats


@pytest.mark.chaos
def test_a_statistics_pass_that_is_killed_goes_on_at_its_layer(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "model", "llama", num_hidden_layers=6, vocab_size=64)

    task = MeasureTask(home=str(tmp_path / "home"), model=str(model))

    def layers() -> dict[str, int]:
        found = (tmp_path / "home" / "statistics").rglob("layer-*.npz")
        return {path.name: path.stat().st_mtime_ns for path in found if "partial" not in path.name}

    def two_layers_back(event: Event) -> bool:
        return event.kind == "progress" and event.unit == "steps" and event.done >= 6 + 1 + 2

    killed = run_child(task, two_layers_back)
    assert killed.status == -signal.SIGKILL
    before = layers()
    assert 2 <= len(before) < 6

    def all_layers(event: Event) -> bool:
        return event.kind == "progress" and event.unit == "steps" and event.done == event.total

    run_child(task, all_layers)
    after = layers()
    assert len(after) == 6
    assert {name: after[name] for name in before} == before
