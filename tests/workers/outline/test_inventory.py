"""The names in headers tell the same inventory as mlx-lm's own class, for every type of the table.

Nothing of a weight is made: the class gives names and shapes, as its files would have them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitbudget.app.core.candidates import Rules
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import BitbudgetError, InvalidModelError, ModelClassNeededError
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.least import least_bytes
from bitbudget.workers.files.headers import SourceFile, TensorRef
from bitbudget.workers.models import build_inventory, checkpoint_from_headers, open_checkpoint
from bitbudget.workers.models.inventory import flat
from bitbudget.workers.models.library import model_classes
from bitbudget.workers.outline.families import FAMILIES, Head
from bitbudget.workers.outline.inventory import named_inventory
from bitbudget.workers.outline.source import kept_tensors, read_source
from tests.workers.models.tiny import COMMON, CONFIGS, MOE

OWN_HEAD = {"tie_word_embeddings": False}
BIASED = {"attention_bias": True, "mlp_bias": True, "use_bias": True, "num_key_value_heads": 4}
SLIDING = {
    "num_hidden_layers": 8,
    "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 2,
}
STACK = re.compile(r"(.+)\.switch_mlp\.(\w+)\.weight")


def config_of(model_type: str, **changes: Any) -> dict[str, Any]:
    own = {k: v for k, v in CONFIGS.get(model_type, {}).items() if k != "layer_types"}
    if FAMILIES[model_type].experts:
        changes.pop("mlp_bias", None)  # no model has experts with biases
    return {**COMMON, **MOE, "num_hidden_layers": 4, **own, **changes, "model_type": model_type}


def files_of(config: dict[str, Any], dtype: Dtype = Dtype.BF16) -> tuple[SourceFile, ...]:
    """Return the headers of a model as it is published: an expert a tensor."""
    model_class, arguments_class = model_classes(config)
    model = model_class(arguments_class.from_dict(config))
    if FAMILIES[config["model_type"]].head is Head.AS_STORED and config["tie_word_embeddings"]:
        model.pop("lm_head")
    offset = 0
    tensors = []
    for name, shape in published(config, model):
        nbytes = dtype.itemsize
        for length in shape:
            nbytes *= length
        tensors.append(TensorRef("model.safetensors", name, dtype, shape, offset, nbytes))
        offset += nbytes
    return (SourceFile("model.safetensors", offset, tuple(tensors)),)


def published(config: dict[str, Any], model: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    names = {part: name for name, part in FAMILIES[config["model_type"]].experts.items()}
    for name, array in flat(model.parameters()):
        stack = STACK.fullmatch(name)
        if stack is None:
            yield name, tuple(array.shape)
            continue
        for expert in range(array.shape[0]):
            yield f"{stack[1]}.experts.{expert}.{names[stack[2]]}.weight", tuple(array.shape[1:])


def own_bytes(tensor: TensorRef) -> bytes:
    return tensor.name.encode()


def both(config: dict[str, Any], files: tuple[SourceFile, ...]) -> tuple[Inventory, Inventory]:
    checkpoint = checkpoint_from_headers("tiny", "local", config, files, read=own_bytes)
    tensors, _ = kept_tensors(config, files, own_bytes)
    return build_inventory(checkpoint), named_inventory(config, tensors)


def assert_equal(by_class: Inventory, by_names: Inventory) -> None:
    assert by_names == by_class
    for rules in (Rules(), Rules(sqnr_floor_db=0.0)):
        assert least_bytes(by_names, rules) == least_bytes(by_class, rules)


@pytest.mark.parametrize("changes", [{}, OWN_HEAD, BIASED, SLIDING], ids=str)
@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_type_as_its_class_has_it(model_type: str, changes: dict[str, Any]) -> None:
    config = config_of(model_type, **changes)
    assert_equal(*both(config, files_of(config)))


def test_dense_layers_among_experts() -> None:
    config = config_of("qwen3_moe", mlp_only_layers=[1], decoder_sparse_step=1)
    by_class, by_names = both(config, files_of(config))
    assert {m.role for m in by_class.modules if m.layer == 1} > {"up_proj"}
    assert_equal(by_class, by_names)


def test_weights_that_are_cast_when_they_are_written() -> None:
    config = config_of("qwen3", torch_dtype="bfloat16")
    by_class, by_names = both(config, files_of(config, Dtype.F32))
    assert {module.dtype for module in by_names.modules} == {Dtype.BF16}
    assert_equal(by_class, by_names)


def test_the_fixtures(fixtures_dir: Path) -> None:
    folders = [path.parent for path in fixtures_dir.glob("*/config.json")]
    assert len(folders) >= 4
    for folder in folders:
        source = read_source(folder)
        by_class = build_inventory(open_checkpoint(folder))
        assert_equal(by_class, named_inventory(source.config, source.tensors))


def test_a_type_outside_the_table_names_what_to_install() -> None:
    config = {**COMMON, "model_type": "mamba"}
    with pytest.raises(ModelClassNeededError, match=r"'mamba'.*mlx-bitbudget\[worker\]"):
        named_inventory(config, ())


@pytest.mark.parametrize(
    ("lost", "error"),
    [
        ("model.layers.1.self_attn.k_proj.weight", ModelClassNeededError),
        ("model.layers.3.mlp.experts.3.up_proj.weight", InvalidModelError),
        ("model.norm.weight", ModelClassNeededError),
    ],
)
def test_a_tensor_that_is_missing_is_told_by_name(lost: str, error: type[BitbudgetError]) -> None:
    config = config_of("qwen3_moe")
    tensors = [t for file in files_of(config) for t in file.tensors if t.name != lost]
    with pytest.raises(error, match=re.escape(lost.replace("experts.3", "switch_mlp"))):
        named_inventory(config, tensors)


def test_a_mixture_of_types_is_left_to_the_class() -> None:
    config = config_of("llama")
    tensors = [
        TensorRef(t.file, t.name, Dtype.F32 if "norm" in t.name else t.dtype, t.shape, 0, 0)
        for file in files_of(config)
        for t in file.tensors
    ]
    with pytest.raises(ModelClassNeededError, match="mixture of BF16 and F32"):
        named_inventory(config, tensors)
