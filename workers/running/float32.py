"""Any checkpoint as a float32 model whose arrays are read only when they are used.

MLX's CPU build is slow in bfloat16 and has no bfloat16 `gather_mm`; the Fisher statistics and the
evaluation therefore compute in float32, quantized modules as the exact affine value of their stored
scales (scale and bias widened first, then `scale * code + bias` in float32).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from bitbudget.loading import model_classes
from bitbudget.rotated_model import RotatedLinear, RotatedQuantizedLinear
from bitbudget.workers.models.folder import float8_names, read_files
from bitbudget.workers.models.sanitize import decoded_first

__all__ = ["dequantized_weight", "load_float32"]


def load_float32(folder: Path) -> nn.Module:
    """Return the model in `folder` with float32 arrays, nothing evaluated yet."""
    from mlx_lm.utils import load_model  # noqa: PLC0415, it brings all tokenizers along

    model, _ = load_model(
        folder,
        lazy=True,
        model_config={"model_file": None},
        get_model_classes=partial(_classes, folder),
    )
    replaced = [
        (path, dense) for path, module in model.named_modules() if (dense := _dense(module))
    ]
    if replaced:
        model.update_modules(tree_unflatten(replaced))
    model.set_dtype(mx.float32)
    model.eval()
    return model


def _classes(folder: Path, config: dict[str, Any]) -> tuple[Any, Any]:
    """Return what makes the model, with 8-bit floats decoded where its class does not do it."""
    make, arguments_class = model_classes(config)
    float8 = float8_names(read_files(folder))

    def decoding(arguments: Any) -> Any:
        model = make(arguments)
        transform = model.sanitize
        model.sanitize = lambda weights: transform(
            weights | decoded_first(transform, weights, float8)
        )
        return model

    return decoding if float8 else make, arguments_class


def dequantized_weight(module: nn.Module) -> mx.array:
    """Return the float32 weight that a quantized module's arrays stand for."""
    affine = module.mode == "affine"
    return mx.dequantize(
        module.weight,
        module.scales.astype(mx.float32) if affine else module.scales,
        module.biases.astype(mx.float32) if affine else None,
        group_size=module.group_size,
        bits=module.bits,
        mode=module.mode,
    ).astype(mx.float32)


def _dense(module: nn.Module) -> nn.Module | None:
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
    dense.weight = dequantized_weight(module)
    if "bias" in module:
        dense.bias = module.bias
    return dense
