"""The tensor types of a real llama.cpp are those that the recipe says, byte for byte.

Needs the `gguf` package and a folder with libllama, such as the one of a release of llama.cpp, in
BITBUDGET_LLAMA_LIBRARIES.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitbudget.app.cli.gguf_names import gguf_names
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.exports import llama_cpp_recipe
from bitbudget.app.core.inventory import Inventory
from bitbudget.workers.models import Checkpoint, build_inventory, open_checkpoint
from bitbudget.workers.native.arrays import to_float32
from tests.workers.models.tiny import write_tiny
from tests.workers.quantize.manifests import manifest_of, random_formats

pytestmark = pytest.mark.slow
Q4_K_S = 14


class Override(ctypes.Structure):
    _fields_ = (("pattern", ctypes.c_char_p), ("type", ctypes.c_int))


class Parameters(ctypes.Structure):
    """`llama_model_quantize_params` of include/llama.h."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("nthread", "ftype", "output_type", "embedding_type")),
        *((f"flag{index}", ctypes.c_bool) for index in range(6)),
        *((name, ctypes.c_void_p) for name in ("imatrix", "kv_overrides")),
        ("tt_overrides", ctypes.POINTER(Override)),
        ("prune_layers", ctypes.c_void_p),
        ("max_buf_size", ctypes.c_size_t),
    )


@pytest.fixture(scope="session")
def llama() -> ctypes.CDLL:
    folder = os.environ.get("BITBUDGET_LLAMA_LIBRARIES")
    if folder is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("no llama.cpp: set BITBUDGET_LLAMA_LIBRARIES, and install gguf")
    paths = sorted(Path(folder).glob("lib*.so*")) + sorted(Path(folder).glob("lib*.dylib"))
    for stem in ("libggml-base", "libggml."):
        for path in paths:
            if path.name.startswith(stem):
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    ggml = ctypes.CDLL(str(next(path for path in paths if path.name.startswith("libggml."))))
    ggml.ggml_backend_load_all_from_path(str(folder).encode())
    library = ctypes.CDLL(str(next(path for path in paths if path.name.startswith("libllama."))))
    library.llama_backend_init()
    library.llama_model_quantize_default_params.restype = Parameters
    return library


def write_gguf(path: Path, checkpoint: Checkpoint, inventory: Inventory, arch: str) -> None:
    """Write the weights in bf16 as llama.cpp's converter does, without a vocabulary."""
    gguf = importlib.import_module("gguf")
    config = json.loads((checkpoint.folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_expert_count(config.get("num_experts", 0))
    writer.add_expert_used_count(config.get("num_experts_per_tok", 0))
    writer.add_expert_feed_forward_length(config.get("moe_intermediate_size", 0))
    name_of = gguf_names(inventory.architecture)
    for module in inventory.modules:
        raw = np.concatenate([part.reshape(-1) for part in checkpoint.parts(module.path)])
        name, array = name_of(module.path), raw.reshape(module.shape)
        if "ffn_gate_inp" in name:  # the converter keeps routers in float32
            writer.add_tensor(name, to_float32(array, Dtype.BF16))
            continue
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, array.view(np.uint8), raw_dtype=kind)
    writer.add_tensor("output_norm.weight", np.ones(config["hidden_size"], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(llama: ctypes.CDLL, source: Path, target: Path, recipe: str) -> None:
    """Do what llama-quantize does with the lines of a --tensor-type-file."""
    gguf = importlib.import_module("gguf")
    lines = [line.rpartition("=") for line in recipe.split()]
    overrides = (Override * (len(lines) + 1))()
    for index, (pattern, _, name) in enumerate(lines):
        type_ = gguf.GGMLQuantizationType[name.upper()].value
        overrides[index] = Override(pattern.encode(), type_)
    parameters = llama.llama_model_quantize_default_params()
    parameters.ftype, parameters.tt_overrides, parameters.nthread = Q4_K_S, overrides, 1
    found = llama.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(parameters)
    )
    assert found == 0


@pytest.mark.parametrize(
    ("model_type", "arch", "changes"),
    [
        ("llama", "llama", {}),
        ("qwen3", "qwen3", {"hidden_size": 256, "intermediate_size": 512}),
        ("qwen3_moe", "qwen3moe", {"hidden_size": 256, "tie_word_embeddings": False}),
    ],
)
def test_llama_cpp_stores_what_the_recipe_says(
    model_type: str, arch: str, changes: dict[str, Any], llama: ctypes.CDLL, tmp_path: Path
) -> None:
    gguf = importlib.import_module("gguf")
    checkpoint = open_checkpoint(write_tiny(tmp_path / "m", model_type, **changes))
    inventory = build_inventory(checkpoint)
    manifest = manifest_of(checkpoint, inventory, random_formats(inventory, 5))
    name_of = gguf_names(inventory.architecture)
    recipe = llama_cpp_recipe(manifest, inventory, name_of)
    write_gguf(tmp_path / "bf16.gguf", checkpoint, inventory, arch)
    quantize(llama, tmp_path / "bf16.gguf", tmp_path / "out.gguf", recipe.text)
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    stored = {tensor.name: tensor for tensor in reader.tensors}
    named = {change.path: change.stored_as for change in recipe.changes}
    for path in manifest.modules:
        found = stored[name_of(path)].tensor_type.name.lower()
        assert found == named.get(path, found).lower(), path
    modules = sum(stored[name_of(path)].n_bytes for path in manifest.modules)
    assert modules == recipe.bytes_there
