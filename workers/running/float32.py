"""Any checkpoint as a float32 model whose arrays are read only when they are used.

MLX's CPU build is slow in bfloat16 and has no bfloat16 `gather_mm`; the Fisher statistics and the
evaluation therefore compute in float32, quantized modules as the exact affine value of their stored
scales (scale and bias widened first, then `scale * code + bias` in float32).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from bitbudget import own_formats, rotated_model
from bitbudget.own_formats import OwnFormat, OwnLinear
from bitbudget.rotated_model import RotatedLinear, RotatedQuantizedLinear
from bitbudget.workers.files.folder import read_files, read_json
from bitbudget.workers.files.layouts import MLX, layout_of
from bitbudget.workers.models import open_checkpoint
from bitbudget.workers.running.stock import stock_model

__all__ = ["load_float32"]

_WORDS_AT_ONCE: Final = 1 << 17
"""Packed words of four bytes that are unpacked together."""


def load_float32(folder: Path) -> nn.Module:
    """Return the model in `folder` with float32 arrays, nothing evaluated yet.

    Dense weights, and those that others than MLX quantized, are read as they are everywhere else;
    what MLX quantized or is rotated is loaded by mlx-lm, and its weights are the values that the
    codes stand for.
    """
    files = read_files(folder)
    tensors = [tensor for file in files for tensor in file.tensors]
    config = read_json(folder / "config.json")
    layout = layout_of(tensors)
    ours = rotated_model.KEY in config or own_formats.KEY in config
    if (layout is None or layout[0] is not MLX) and not ours:
        checkpoint = open_checkpoint(folder, allow_quantized_source=layout is not None)
        model = checkpoint.model(as_stored=True)
    else:
        model = _stock_model(folder)
    model.set_dtype(mx.float32)
    model.eval()
    return model


def _stock_model(folder: Path) -> nn.Module:
    model, _ = stock_model(folder)
    replaced = [
        (path, dense) for path, module in model.named_modules() if (dense := _dense(module))
    ]
    if replaced:
        model.update_modules(tree_unflatten(replaced))
    return model


def _dequantized(module: nn.Module) -> mx.array:
    """Return the float32 weight that a quantized module's arrays stand for, not yet computed.

    Some rows at a time: MLX's CPU build holds a matrix several times over while it unpacks it.
    """
    at_once = max(1, _WORDS_AT_ONCE // (module.weight.size // len(module.weight)))
    rows = [slice(first, first + at_once) for first in range(0, len(module.weight), at_once)]
    return mx.concatenate([_dequantized_rows(module, part) for part in rows])


def _dequantized_rows(module: nn.Module, rows: slice) -> mx.array:
    affine = module.mode == "affine"
    return mx.dequantize(
        module.weight[rows],
        module.scales[rows].astype(mx.float32) if affine else module.scales[rows],
        module.biases[rows].astype(mx.float32) if affine else None,
        group_size=module.group_size,
        bits=module.bits,
        mode=module.mode,
    ).astype(mx.float32)


def _dense(module: nn.Module) -> nn.Module | None:
    if isinstance(module, OwnFormat):
        return _dense_of_own(module)
    if isinstance(module, RotatedQuantizedLinear):
        dense: nn.Module = RotatedLinear(1, 1, bias=False)
    elif isinstance(module, nn.QuantizedLinear):
        dense = nn.Linear(1, 1, bias=False)
    elif isinstance(module, nn.QuantizedEmbedding):
        dense = nn.Embedding(1, 1)
    elif isinstance(module, QuantizedSwitchLinear):
        dense = SwitchLinear(1, 1, 1, bias=False)
    else:
        return None
    dense.weight = _dequantized(module)
    if "bias" in module:
        dense.bias = module.bias
    return dense


def _dense_of_own(module: OwnFormat) -> nn.Module:
    kind = own_formats.dense_class(module)
    if isinstance(module, OwnLinear) and module.rotate is not None:
        kind = RotatedLinear
    dense: nn.Module = kind.__new__(kind)
    nn.Module.__init__(dense)
    dense.weight = module.dequantized()
    if "bias" in module:
        dense.bias = module.bias
    return dense
