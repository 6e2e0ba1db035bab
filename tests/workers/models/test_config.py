"""Configurations of transformers 5 mean what those of transformers 4 mean, or are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from bitbudget.app.contract.tasks import MeasureTask
from bitbudget.app.core.allocate import allocate
from bitbudget.app.core.encoders import Encoder
from bitbudget.app.core.errors import UnsupportedModelError
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.sensitivity import Sensitivity
from bitbudget.app.core.solving import manifest_of
from bitbudget.workers.files.folder import encode_floats
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.models.config import understood
from bitbudget.workers.pipeline.tasks import run_task
from bitbudget.workers.running.float32 import load_float32
from tests.workers.models.tiny import write_tiny

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
SCALED = ["llama", "qwen2", "granite", "olmo2", "seed_oss", "smollm3", "qwen3", "mixtral"]
PLAIN = ["gemma", "gemma2", "cohere", "starcoder2", "helium", "ernie4_5", "phi", "glm4", *SCALED]
OLD = ("rope_theta", "rope_scaling", "partial_rotary_factor", "rope_local_base_freq")


def logits(folder: Path) -> mx.array:
    found: mx.array = load_float32(folder)(mx.arange(2, 42)[None])
    return found


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = {k: v for k, v in json.loads(path.read_text()).items() if k not in OLD}
    path.write_text(json.dumps(config | changes))


def check_same_model(old: Path, new: Path, **changes: Any) -> None:
    rewrite(new, **changes)
    expected = logits(old)
    assert mx.array_equal(logits(new), expected)
    assert mx.array_equal(logits_of_written(new), expected)


def logits_of_written(folder: Path) -> mx.array:
    """Return what stock mlx-lm computes once the understood configuration is written."""
    config = open_checkpoint(folder).config
    (folder / "config.json").write_text(json.dumps(config))
    from mlx_lm.utils import load_model  # noqa: PLC0415, the reference

    model, _ = load_model(folder, lazy=True)
    model.set_dtype(mx.float32)
    found: mx.array = model(mx.arange(2, 42)[None])
    return found


@pytest.mark.parametrize("model_type", PLAIN)
def test_the_base_is_the_models_own(model_type: str, tmp_path: Path) -> None:
    partial = {"partial_rotary_factor": 0.5} if model_type in ("phi", "glm4") else {}
    old = write_tiny(tmp_path / "old", model_type, rope_theta=500000.0)
    new = write_tiny(tmp_path / "new", model_type)
    rope = {"rope_type": "default", "rope_theta": 500000.0, **partial}
    check_same_model(old, new, rope_parameters=rope, dtype="bfloat16")
    other = write_tiny(tmp_path / "other", model_type, rope_theta=10000.0)
    assert not mx.array_equal(logits(other), logits(old))


@pytest.mark.parametrize("model_type", SCALED)
def test_a_scaling_is_the_models_own(model_type: str, tmp_path: Path) -> None:
    old = write_tiny(tmp_path / "old", model_type, rope_theta=1e6, rope_scaling=LLAMA3)
    new = write_tiny(tmp_path / "new", model_type)
    check_same_model(old, new, rope_parameters={**LLAMA3, "rope_theta": 1e6})


@pytest.mark.parametrize("nested", [False, True], ids=["gemma3_text", "gemma3"])
def test_layer_types_have_their_own_base(*, nested: bool, tmp_path: Path) -> None:
    values: dict[str, Any] = {"rope_theta": 1e6, "rope_local_base_freq": 20000.0}
    rope = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
    }
    values["rope_scaling"] = {"rope_type": "linear", "factor": 8.0}
    if not nested:
        old = write_tiny(tmp_path / "old", "gemma3_text", **values)
        new = write_tiny(tmp_path / "new", "gemma3_text")
        check_same_model(old, new, rope_parameters=rope)
        return
    config = json.loads((write_tiny(tmp_path / "x", "gemma3") / "config.json").read_text())
    text = config["text_config"]
    old = write_tiny(tmp_path / "old", "gemma3", text_config=text | values)
    new = write_tiny(tmp_path / "new", "gemma3")
    plain = {k: v for k, v in text.items() if k not in OLD} | {"rope_parameters": rope}
    check_same_model(old, new, text_config=plain)


@pytest.mark.parametrize(
    ("rope_type", "more"),
    [
        ("yarn", {"factor": 4.0, "original_max_position_embeddings": 64}),
        ("linear", {"factor": 2.0}),
        ("dynamic", {"factor": 2.0}),
    ],
)
@pytest.mark.parametrize("model_type", ["llama", "qwen3_moe", "granite"])
def test_every_kind_of_scaling(
    model_type: str, rope_type: str, more: dict[str, Any], tmp_path: Path
) -> None:
    scaling = {"rope_type": rope_type, **more}
    old = write_tiny(tmp_path / "old", model_type, rope_theta=20000.0, rope_scaling=scaling)
    new = write_tiny(tmp_path / "new", model_type)
    check_same_model(old, new, rope_parameters={**scaling, "rope_theta": 20000.0})


@pytest.mark.parametrize(
    ("model_type", "changes", "named"),
    [
        ("gemma2", {"rope_parameters": {**LLAMA3, "rope_theta": 1e4}}, "rope_parameters.rope_type"),
        ("cohere", {"rope_parameters": {**LLAMA3, "rope_theta": 1e4}}, "rope_parameters.rope_type"),
        ("starcoder2", {"hidden_act": "relu"}, "hidden_act"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ("qwen3", {"hidden_act": "relu"}, "hidden_act"),
        ("qwen2_moe", {"norm_topk_prob": True}, "norm_topk_prob"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ],
)
def test_what_the_class_does_not_read_is_refused_by_name(
    model_type: str, changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path / "model", model_type)
    rewrite(folder, **changes)
    with pytest.raises(UnsupportedModelError, match=named):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {"hidden_act": "swish"}),
        ("gemma", {"hidden_act": "gelu"}),
        ("qwen3_moe", {"hidden_act": None}),
    ],
)
def test_other_words_for_the_same_are_no_fault(
    model_type: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    folder = write_tiny(tmp_path / "model", model_type)
    rewrite(folder, **changes)
    open_checkpoint(folder)


def test_both_names_of_the_type_are_understood() -> None:
    assert understood({"model_type": "llama", "dtype": "bfloat16"})["torch_dtype"] == "bfloat16"
    kept = {"model_type": "llama", "dtype": "float32", "torch_dtype": "bfloat16"}
    assert understood(kept)["torch_dtype"] == "bfloat16"


def test_floats_without_a_word_in_json_are_tagged() -> None:
    value = {"a": [float("inf"), {"b": float("-inf")}], "c": 1.5}
    tagged = encode_floats(value)
    assert tagged["a"][0] == {"__float__": "Infinity"}
    assert json.loads(json.dumps(tagged, allow_nan=False))["a"][1]["b"] == {
        "__float__": "-Infinity"
    }


@pytest.mark.parametrize("name", ["stories260K-llama", "babyllama105-llama", "tinyqwen3-dense"])
def test_a_trained_model_is_the_same_as_either_version_saves_it(
    name: str, fixtures_dir: Path, tmp_path: Path
) -> None:
    old, new = fixtures_dir / name, tmp_path / "new"
    shutil.copytree(old, new)
    config = json.loads((new / "config.json").read_text())
    rope = {"rope_type": "default", "rope_theta": config.pop("rope_theta", 10000.0)}
    assert not config.pop("rope_scaling", None)
    config |= {"rope_parameters": rope, "dtype": config.pop("torch_dtype")}
    (new / "config.json").write_text(json.dumps(config))
    assert build_inventory(open_checkpoint(new)) == build_inventory(open_checkpoint(old))
    tokens = mx.arange(2, 66)[None]
    assert mx.array_equal(load_float32(new)(tokens), load_float32(old)(tokens))
    first, second = (allocated(folder, tmp_path / "home" / folder.name) for folder in (old, new))
    assert first == second


def allocated(folder: Path, home: Path) -> dict[str, Any]:
    """Return the manifest of a model for 8 bits per weight, but for names and digests."""
    task = MeasureTask(
        model=str(folder), home=str(home), encoder=Encoder.MINMAX, sensitivity=Sensitivity.WEIGHTS
    )
    result = run_task(task, lambda _: None).model_dump(mode="json")
    measurement = Measurement.from_json(Path(result["measurement"]).read_bytes())
    request = AllocationRequest(budget=measurement.inventory.weights)
    manifest = manifest_of(measurement, request, allocate(measurement, request))
    return manifest.model_dump(mode="json", exclude={"model", "measurement"})
