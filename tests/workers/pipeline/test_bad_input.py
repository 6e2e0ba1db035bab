"""Weights that a model may hold and a measurement has to survive or refuse by name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from bitbudget.app.contract.tasks import MeasureTask
from bitbudget.app.core.errors import BitbudgetError
from bitbudget.app.core.formats import KEEP, Mode
from bitbudget.app.core.measurement import Curve, Measurement
from bitbudget.workers.pipeline.tasks import run_task
from tests.workers.models.tiny import stored_weights, write_folder, write_tiny

ROOT = Path(__file__).resolve().parents[3]
NAME = "model.layers.1.mlp.up_proj"


def changed(folder: Path, change: Callable[[mx.array], mx.array], **config: Any) -> Path:
    """Write a sound model with one weight changed."""
    sound = write_tiny(folder / "sound", "llama", **config)
    weights = dict(mx.load(str(sound / "model.safetensors")))  # type: ignore[arg-type]
    weights[f"{NAME}.weight"] = change(weights[f"{NAME}.weight"])
    return write_folder(folder / "odd", json.loads((sound / "config.json").read_text()), weights)


def measured(model: Path, home: Path) -> dict[str, Curve]:
    task = MeasureTask(home=str(home), model=str(model), sensitivity="weights")
    result = run_task(task, lambda _: None).model_dump(mode="json")
    measurement = Measurement.from_json(Path(result["measurement"]).read_bytes())
    return {curve.path: curve for curve in measurement.curves}


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_constant_weights_are_exact_in_affine_formats(tmp_path: Path, value: float) -> None:
    model = changed(tmp_path, lambda w: mx.full(w.shape, value, w.dtype))
    curve = measured(model, tmp_path / "home")[NAME]
    assert {p.t2 for p in curve.points if p.format.mode is Mode.AFFINE} == {0.0}


def test_denormal_weights_are_lost_whole_in_every_format_but_keep(tmp_path: Path) -> None:
    model = changed(tmp_path, lambda w: mx.full(w.shape, 3, mx.uint16).view(mx.bfloat16))
    curve = measured(model, tmp_path / "home")[NAME]
    assert {point.t2 for point in curve.points if point.format != KEEP} == {1.0}
    assert curve.point(KEEP).t2 == 0


def test_a_constant_group_among_others_is_measured(tmp_path: Path) -> None:
    def flatten(weight: mx.array) -> mx.array:
        weight[3, :32] = 0.5
        return weight

    curve = measured(changed(tmp_path, flatten), tmp_path / "home")[NAME]
    assert all(0 < p.t2 < 1 for p in curve.points if p.format != KEEP)


def test_an_odd_width_is_kept(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "odd", "llama", intermediate_size=100)
    curve = measured(model, tmp_path / "home")["model.layers.0.mlp.down_proj"]
    assert [point.format for point in curve.points] == [KEEP]


def test_integer_weights_are_refused_by_name(tmp_path: Path) -> None:
    model = changed(tmp_path, lambda w: mx.ones(w.shape, mx.int8))
    with pytest.raises(BitbudgetError, match=rf"{NAME}.*floating-point.*original"):
        measured(model, tmp_path / "home")


def test_quantized_models_are_refused_with_the_reason(tmp_path: Path) -> None:
    model = changed(tmp_path, lambda w: w)
    weights = stored_weights(model)
    codes, scales, *biases = mx.quantize(weights[f"{NAME}.weight"])
    packed = {f"{NAME}.weight": codes, f"{NAME}.scales": scales, f"{NAME}.biases": biases[0]}
    mx.save_safetensors(str(model / "model.safetensors"), weights | packed)
    with pytest.raises(BitbudgetError, match="quantized already"):
        measured(model, tmp_path / "home")


def test_an_empty_weight_is_refused_by_name(tmp_path: Path) -> None:
    model = changed(tmp_path, lambda w: w[:0])
    with pytest.raises(BitbudgetError, match="up_proj"):
        measured(model, tmp_path / "home")


def test_a_file_that_changes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_tiny(tmp_path / "m", "llama")
    path, read = model / "model.safetensors", os.preadv

    def write_and_read(*arguments: Any) -> int:
        with path.open("r+b") as file:
            file.seek(-2, os.SEEK_END)
            file.write(b"ab")
        os.utime(path, ns=(1, time.time_ns()))
        return read(*arguments)

    monkeypatch.setattr(os, "preadv", write_and_read)
    with pytest.raises(BitbudgetError, match=r"changed while it was read.*run again"):
        measured(model, tmp_path / "home")
    assert not list((tmp_path / "home").glob("digests/*"))


def test_a_file_cut_after_its_header_was_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny(tmp_path / "m", "llama")
    path, read = model / "model.safetensors", os.preadv

    def cut_and_read(*arguments: Any) -> int:
        os.truncate(path, 5000)
        return read(*arguments)

    monkeypatch.setattr(os, "preadv", cut_and_read)
    with pytest.raises(BitbudgetError, match=r"model\.safetensors: .* bytes early"):
        measured(model, tmp_path / "home")


@pytest.mark.chaos
def test_a_killed_command_goes_on_and_ends_as_if_it_had_not_been(
    tmp_path: Path, sample_model: Path
) -> None:
    def command(home: Path) -> subprocess.Popen[str]:
        environment = {**os.environ, "BITBUDGET_HOME": str(home), "PYTHONPATH": str(ROOT)}
        arguments = ["measure", str(sample_model), "--sensitivity", "weights", "--json"]
        return subprocess.Popen(
            [sys.executable, "-m", "bitbudget.app.cli", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    cache = tmp_path / "a" / "measurements" / "tensors.sqlite3"
    with command(tmp_path / "a") as first:
        while first.poll() is None and not cache.exists():
            time.sleep(0.01)
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
    documents = []
    for home in (tmp_path / "a", tmp_path / "b"):
        with command(home) as run:
            out, errors = run.communicate()
        assert run.returncode == 0, errors
        documents.append(Path(json.loads(out)["measurement"]).read_bytes())
    assert documents[0] == documents[1]
