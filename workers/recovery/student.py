"""A quantized checkpoint as a float32 model whose scales, biases and codes can be trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx_lm.utils import load_model

from workers.encoders.packing import pack
from workers.fisher.floating import load_float32

__all__ = ["Grids", "Latents", "Student"]

Grids = dict[str, dict[str, mx.array]]
"""Module path -> relative changes `u` of its scales and `v` of its biases, in stored scales."""
Latents = dict[str, list[mx.array]]
"""Module path -> for each matrix of it (one, or one per expert) how far its weights moved."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """One module as stored: codes (..., out, groups, group), the grids float32 (..., out, groups).

    `step` turns a latent into scales: with it Muon, whose updates have a norm that depends on the
    matrix's width, moves every weight of every module by the same share of a scale.
    """

    codes: mx.array
    scales: mx.array
    biases: mx.array
    dtype: mx.Dtype
    bits: int
    step: float

    @classmethod
    def of(cls, module: Any) -> _Stored:
        ones = mx.ones(module.scales.shape)
        group, bits = module.group_size, module.bits
        codes = mx.dequantize(
            module.weight, ones, mx.zeros(ones.shape), group_size=group, bits=bits
        )
        return cls(
            mx.unflatten(codes, -1, (-1, group)),
            module.scales.astype(mx.float32),
            module.biases.astype(mx.float32),
            module.scales.dtype,
            bits,
            float(codes.shape[-1]) ** 0.5,
        )

    def moved(self, latents: list[mx.array]) -> mx.array:
        """Return the codes, as real numbers, after the weights moved."""
        latent = mx.stack(latents).reshape(self.codes.shape)
        return self.codes + self.step * latent

    def rounded(self, moved: mx.array) -> mx.array:
        return mx.clip(mx.round(moved), 0, 2**self.bits - 1)


class Student:
    """scale = stored (1 + u), bias = stored + v scale, code = round(stored + step z).

    Relative parameters need one learning rate for all modules, whatever their magnitude. Weights
    begin at the middle of their code, so a code changes only when its gradients agree for long.
    The rounding is passed straight through by the gradient, and it is deterministic.
    """

    def __init__(self, checkpoint: Path) -> None:
        stored, _ = load_model(checkpoint)
        self.model = load_float32(checkpoint)
        self.model.freeze()
        self.modules = dict(self.model.named_modules())
        self.stored = {
            path: _Stored.of(module)
            for path, module in stored.named_modules()
            if getattr(module, "mode", "") == "affine" and "scales" in module
        }

    def grids(self) -> Grids:
        """Return grids that change nothing."""
        return {
            path: {"u": mx.zeros(own.scales.shape), "v": mx.zeros(own.scales.shape)}
            for path, own in self.stored.items()
        }

    def latents(self) -> Latents:
        """Return weights that have not moved."""
        found = {}
        for path, own in self.stored.items():
            *lead, out, groups, group = own.codes.shape
            count = int(np.prod(lead)) if lead else 1
            found[path] = [mx.zeros((out, groups * group)) for _ in range(count)]
        return found

    def arrays(self, grids: Grids, latents: Latents | None = None) -> dict[str, np.ndarray]:
        """Return what is stored by array name: bf16 as its bits, codes packed if they moved."""
        found: dict[str, np.ndarray] = {}
        for path, own in self.stored.items():
            for name, array in self._grid(path, grids).items():
                found[f"{path}.{name}"] = np.array(
                    array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
                )
            if latents is not None:
                codes = own.rounded(own.moved(latents[path])).flatten(-2, -1)
                found[f"{path}.weight"] = pack(np.array(codes).astype(np.uint8), own.bits)
        return found

    def _grid(self, path: str, grids: Grids) -> dict[str, mx.array]:
        """Return scales and biases in their stored dtype."""
        own, change = self.stored[path], grids[path]
        return {
            "scales": (own.scales * (1 + change["u"])).astype(own.dtype),
            "biases": (own.biases + change["v"] * own.scales).astype(own.dtype),
        }

    def apply(
        self, grids: Grids, latents: Latents | None = None, *, stored: bool = False
    ) -> nn.Module:
        """Return the model with these parameters, as they would be stored if `stored`."""
        for path, own in self.stored.items():
            change = grids[path]
            scale = own.scales * (1 + change["u"])
            bias = own.biases + change["v"] * own.scales
            if stored:
                grid = self._grid(path, grids)
                scale, bias = (grid[name].astype(mx.float32) for name in ("scales", "biases"))
            codes = own.codes
            if latents is not None:
                moved = own.moved(latents[path])
                codes = moved + mx.stop_gradient(own.rounded(moved) - moved)
            module: Any = self.modules[path]
            module.weight = (codes * scale[..., None] + bias[..., None]).flatten(-2, -1)
        return self.model
