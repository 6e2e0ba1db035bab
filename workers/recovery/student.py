"""A quantized checkpoint as a float32 model whose scales and biases can be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.utils import load_model

from workers.fisher.floating import load_float32

__all__ = ["Parameters", "Student"]

Parameters = dict[str, dict[str, mx.array]]
"""Module path -> relative changes of its `scales` and `biases`, in units of the stored scale."""


class Student:
    """Codes stay as they are; scale = stored (1 + u), bias = stored + v scale.

    Relative parameters need one learning rate for all modules, whatever their magnitude.
    """

    def __init__(self, checkpoint: Path) -> None:
        stored, _ = load_model(checkpoint)
        self.model = load_float32(checkpoint)
        self.model.freeze()
        self.modules = dict(self.model.named_modules())
        self.codes: dict[str, mx.array] = {}
        self.grids: dict[str, tuple[mx.array, mx.array, mx.Dtype]] = {}
        for path, module in stored.named_modules():
            if getattr(module, "mode", "") == "affine" and "scales" in module:
                self._take(path, module)

    def _take(self, path: str, module: nn.Module) -> None:
        ones = mx.ones(module.scales.shape)
        codes = mx.dequantize(
            module.weight,
            ones,
            mx.zeros(ones.shape),
            group_size=module.group_size,
            bits=module.bits,
        )
        self.codes[path] = mx.unflatten(codes, -1, (-1, module.group_size))
        dtype = module.scales.dtype
        self.grids[path] = module.scales.astype(mx.float32), module.biases.astype(mx.float32), dtype

    def start(self) -> Parameters:
        """Return parameters that change nothing."""
        return {
            path: {"u": mx.zeros(scales.shape), "v": mx.zeros(scales.shape)}
            for path, (scales, _, _) in self.grids.items()
        }

    def arrays(self, parameters: Parameters) -> dict[str, mx.array]:
        """Return scales and biases by array name, rounded to the stored dtype."""
        found = {}
        for path, change in parameters.items():
            scales, biases, dtype = self.grids[path]
            found[f"{path}.scales"] = (scales * (1 + change["u"])).astype(dtype)
            found[f"{path}.biases"] = (biases + change["v"] * scales).astype(dtype)
        return found

    def apply(self, parameters: Parameters, *, stored: bool = False) -> nn.Module:
        """Return the model with `parameters`, as they would be stored if `stored`."""
        arrays = self.arrays(parameters) if stored else {}
        for path, change in parameters.items():
            scales, biases, _ = self.grids[path]
            scale, bias = scales * (1 + change["u"]), biases + change["v"] * scales
            if stored:
                scale = arrays[f"{path}.scales"].astype(mx.float32)
                bias = arrays[f"{path}.biases"].astype(mx.float32)
            values = self.codes[path] * scale[..., None] + bias[..., None]
            module: Any = self.modules[path]
            module.weight = values.flatten(-2, -1)
        return self.model
