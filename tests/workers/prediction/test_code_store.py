"""Codes on disk, and the weights that they stand for."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import parse_format
from bitbudget.app.core.inventory import Module, ModuleKind
from bitbudget.workers.encoders.number_formats import dequantize, store
from bitbudget.workers.native.arrays import from_float32
from bitbudget.workers.prediction.code_store import CodeStore

SHAPE = (4096, 1024)
"""16 MiB in float32."""


@pytest.mark.parametrize("name", ["affine3g64", "mxfp4", "two4g16"])
def test_a_weight_is_that_of_its_codes_and_takes_no_more_memory(name: str, tmp_path: Path) -> None:
    """MLX's own dequantization on a CPU holds a matrix of 3 bits six times over."""
    module = Module("head", ModuleKind.LINEAR, SHAPE, Dtype.BF16, "head")
    values = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    format_ = parse_format(name)
    arrays = store(from_float32(values, Dtype.BF16), Dtype.BF16, format_, careful=False)
    codes = CodeStore(tmp_path)
    codes.put(module, format_, arrays, "written")
    assert codes.holds("head", format_, "written")
    assert not codes.holds("head", format_)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    weight = codes.weight("head", format_, "written")
    mx.eval(weight)
    assert mx.get_peak_memory() - before < 1.5 * weight.nbytes
    assert np.array_equal(np.array(weight), dequantize(arrays, format_, Dtype.BF16))
    codes.drop("written")
    assert not codes.holds("head", format_, "written")
    assert list(tmp_path.iterdir()) == []
