"""8-bit floats that classes of mlx-lm decode, that they only scale, and that they do not know."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import AlreadyQuantizedError
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.models.arrays import read_tensor
from bitbudget.workers.models.inventory import flat
from bitbudget.workers.native.arrays import from_float32, to_float32
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.streaming.decode import float8_table
from tests.workers.models.fp8 import write_deepseek, write_llama_shaped


def test_codes_that_a_class_only_scales_are_decoded_before(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_llama_shaped(tmp_path, "ministral3", block_scaled=False))
    assert {m.dtype for m in build_inventory(checkpoint).modules} == {Dtype.BF16}
    tensors = {tensor.name: tensor for file in checkpoint.files for tensor in file.tensors}
    path = "model.layers.1.mlp.down_proj"
    codes = read_tensor(tmp_path, tensors[f"{path}.weight"])
    scale = to_float32(read_tensor(tmp_path, tensors[f"{path}.weight_scale_inv"]), Dtype.BF16)
    values = float8_table(Dtype.F8_E4M3)[codes.view(np.uint8)] * scale
    (found,) = checkpoint.parts(path)
    assert checkpoint.sources(path) is None
    assert np.array_equal(found.reshape(-1), from_float32(values, Dtype.BF16).reshape(-1))
    assert checkpoint.sources("lm_head") is not None


@pytest.mark.parametrize("model_type", ["ministral3", "deepseek_v3"])
def test_the_reference_of_an_evaluation_has_the_same_weights(
    tmp_path: Path, model_type: str
) -> None:
    if model_type == "ministral3":
        write_llama_shaped(tmp_path, model_type, block_scaled=False)
    else:
        write_deepseek(tmp_path)
    expected = dict(flat(open_checkpoint(tmp_path).model().parameters()))
    found = dict(flat(load_float32(tmp_path).parameters()))
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert mx.array_equal(array, expected[name].astype(mx.float32)), name


def test_a_class_that_decodes_is_left_to_it(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_deepseek(tmp_path))
    (found,) = checkpoint.parts("model.layers.0.mlp.up_proj")
    assert 0.01 < np.abs(to_float32(found, Dtype.BF16)).mean() < 0.1


def test_a_class_that_knows_no_scales_is_refused_by_the_layout(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_llama_shaped(tmp_path, "qwen3", block_scaled=True))
    with pytest.raises(AlreadyQuantizedError, match=r"8-bit floats with scales \(model"):
        build_inventory(checkpoint)
