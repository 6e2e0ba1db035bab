"""The inventory against what stock mlx-lm quantizes, architecture by architecture."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import KEEP, parse_format
from bitbudget.app.core.inventory import CacheKind, Inventory, ModuleKind
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.workers.models import build_inventory, checkpoint_from_headers, open_checkpoint
from bitbudget.workers.models.arrays import numpy_of
from bitbudget.workers.models.inventory import flat
from tests.workers.models.tiny import COMMON, CONFIGS, MOE, write_folder, write_tiny

GROUP_SIZE = 32
READ_RAW = {"seed_oss": {"model.embed_tokens"}, "minicpm": {"model.embed_tokens"}}
"""What stock mlx-lm quantizes although the model file then cannot multiply by it."""


def stock_paths(folder: Path) -> dict[str, int]:
    """Bits by path of what stock mlx-lm quantizes to 4 bits in groups of 32."""
    utilities = importlib.import_module("mlx_lm.utils")
    model, config = utilities.load_model(folder, lazy=True)
    model, _ = utilities.quantize_model(model, config, GROUP_SIZE, 4)
    leaves = flat(model.leaf_modules(), is_leaf=nn.Module.is_module)
    return {path: module.bits for path, module in leaves if hasattr(module, "scales")}


def our_paths(inventory: Inventory) -> dict[str, int]:
    return {
        module.path: module.floor_bits or 4
        for module in inventory.modules
        if module.quantizable and module.in_features % GROUP_SIZE == 0
    }


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_names_what_stock_mlx_lm_quantizes(
    model_type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tiny(tmp_path / "model", model_type)
    checkpoint = open_checkpoint(folder)
    inventory = build_inventory(checkpoint)
    stock = stock_paths(folder)
    for path in READ_RAW.get(model_type, ()):
        del stock[path]
    assert our_paths(inventory) == stock
    capsys.readouterr()

    from_headers = checkpoint_from_headers("x", "local", checkpoint.config, checkpoint.files)
    assert build_inventory(from_headers) == inventory

    stored = {name: array.nbytes for name, array in checkpoint.weights().items()}
    kept = {module.path: KEEP for module in inventory.modules}
    files = plan_checkpoint(inventory).files(kept)
    assert {array.name: array.nbytes for file in files for array in file.arrays} == stored
    assert inventory.architecture.cache


@pytest.mark.parametrize(
    "model_type", ["qwen3_next", "qwen3_5", "falcon_h1", "deepseek_v3", "gpt2"]
)
def test_parts_are_what_the_model_loads(model_type: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "model", model_type))
    for name, array in checkpoint.weights().items():
        expected = numpy_of(array)
        parts = list(checkpoint.parts(name))
        found = parts[0] if expected.ndim <= 2 else np.stack(parts)
        assert found.reshape(expected.shape).tobytes() == expected.tobytes(), name


def test_a_weight_changed_in_place_has_no_source(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "sanitized", "falcon_h1")
    weights = dict(mx.load(str(folder / "model.safetensors")))  # type: ignore[arg-type]
    for name in [name for name in weights if "conv1d.weight" in name]:
        weights[name] = weights[name].transpose(0, 2, 1)
    config = json.loads((folder / "config.json").read_text()) | {"attention_out_multiplier": 0.5}
    checkpoint = open_checkpoint(write_folder(tmp_path / "source", config, weights))
    path = "model.layers.0.self_attn.o_proj"
    assert checkpoint.sources(path) is None
    (found,) = checkpoint.parts(path)
    expected = weights[f"{path}.weight"] * 0.5
    assert found.tobytes() == numpy_of(expected.astype(mx.bfloat16)).tobytes()
    assert checkpoint.sources("model.layers.0.input_layernorm") is not None


def test_stacks_experts_of_separate_tensors(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "stacked", "qwen3_moe")
    stacked = open_checkpoint(folder)
    weights = dict(mx.load(str(folder / "model.safetensors")))  # type: ignore[arg-type]
    for name in [name for name in weights if ".switch_mlp." in name]:
        experts = weights.pop(name)
        for index in range(experts.shape[0]):
            weights[name.replace("switch_mlp", f"experts.{index}")] = experts[index]
    config = {**COMMON, **MOE, "model_type": "qwen3_moe"}
    separate = open_checkpoint(write_folder(tmp_path / "separate", config, weights))
    inventory = build_inventory(separate)
    assert inventory == build_inventory(stacked)

    path = "model.layers.1.mlp.switch_mlp.up_proj"
    module = inventory.module(path)
    assert (module.kind, module.shape) == (ModuleKind.SWITCH_LINEAR, (4, 64, 64))
    assert module.experts_per_token == inventory.architecture.experts_per_token == 2
    sources = separate.sources(path)
    assert sources is not None
    assert [source.name for source in sources] == [
        f"model.layers.1.mlp.experts.{index}.up_proj.weight" for index in range(4)
    ]
    assert [part.tobytes() for part in separate.parts(path)] == [
        part.tobytes() for part in stacked.parts(path)
    ]


def test_keeps_the_models_wish_as_a_floor(tmp_path: Path) -> None:
    inventory = build_inventory(open_checkpoint(write_tiny(tmp_path / "model", "qwen3_moe")))
    router = inventory.module("model.layers.0.mlp.gate")
    assert router.floor_bits == 8
    assert {format_.bits for format_ in router.legal_formats()} == {8, 0}


def test_keeps_what_other_code_reads_raw(tmp_path: Path) -> None:
    """This head multiplies by the embedding's weight itself, which packed codes would break."""
    folder = write_tiny(tmp_path / "model", "seed_oss", num_key_value_heads=2)
    modules = {m.path: m for m in build_inventory(open_checkpoint(folder)).modules}
    assert not modules["model.embed_tokens"].quantizable
    assert modules["model.layers.0.mlp.up_proj"].quantizable


def test_tracing_leaves_the_parameters_alone(tmp_path: Path) -> None:
    """The forward pass of Gemma 3n casts a weight in place."""
    text = {
        **COMMON,
        "model_type": "gemma3n",
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": 128,
        "rope_local_base_freq": 1.0,
        "final_logit_softcapping": 1.0,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.5] * 4,
        "hidden_size_per_layer_input": 32,
        "altup_num_inputs": 2,
        "altup_coef_clip": 1.0,
        "altup_correct_scale": True,
        "altup_active_idx": 0,
        "laurel_rank": 8,
    }
    folder = write_tiny(tmp_path / "model", "gemma3n", text_config=text)
    dtypes = {m.dtype for m in build_inventory(open_checkpoint(folder)).modules}
    assert dtypes == {Dtype.BF16}


def test_tells_tied_from_separate_heads(tmp_path: Path) -> None:
    tied = build_inventory(open_checkpoint(write_tiny(tmp_path / "tied", "qwen3")))
    apart = build_inventory(
        open_checkpoint(write_tiny(tmp_path / "apart", "qwen3", tie_word_embeddings=False))
    )
    assert [m.path for m in tied.modules if m.is_tied_head] == ["model.embed_tokens"]
    assert [m.path for m in apart.modules if m.is_tied_head] == []
    assert {m.path for m in apart.modules} - {m.path for m in tied.modules} == {"lm_head"}


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("qwen3", {CacheKind.FULL: 2 * 2 * 64}),
        ("gemma3_text", {CacheKind.FULL: 256, CacheKind.SLIDING: 256}),
        ("deepseek_v3", {CacheKind.LATENT: 32 + 32}),
        ("qwen3_5", {CacheKind.FULL: 256, CacheKind.STATE: 0}),
        ("mamba", {CacheKind.STATE: 0}),
    ],
)
def test_reads_caches_off_the_model(
    model_type: str, expected: dict[CacheKind, int], tmp_path: Path
) -> None:
    inventory = build_inventory(open_checkpoint(write_tiny(tmp_path / "model", model_type)))
    layers = inventory.architecture.cache
    assert {layer.kind: layer.elements_per_token for layer in layers} == expected
    for layer in layers:
        assert (layer.window == 32) == (layer.kind is CacheKind.SLIDING)
        assert (layer.constant_bytes > 0) == (layer.kind is CacheKind.STATE)


def test_odd_widths_are_kept(fixtures_dir: Path) -> None:
    inventory = build_inventory(open_checkpoint(fixtures_dir / "stories260K-llama"))
    assert inventory.module("model.layers.0.mlp.down_proj").legal_formats() == (KEEP,)
    gate = inventory.module("model.layers.0.mlp.gate_proj")
    assert parse_format("affine4g64") in gate.legal_formats()
    assert parse_format("affine4g128") not in gate.legal_formats()


def test_fixture_models_match_stock(fixtures_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in sorted(path.parent for path in fixtures_dir.glob("*/config.json")):
        assert our_paths(build_inventory(open_checkpoint(folder))) == stock_paths(folder)
    capsys.readouterr()
