"""A quantized checkpoint as a float32 model in which everything stored can be trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from bitbudget.loading import model_classes
from bitbudget.workers.running.float32 import load_float32

__all__ = ["Student", "Values"]

Values = dict[str, dict[str, mx.array]]
"""How far scales ("u") and biases ("v") of each module and each float ("w") moved from the stored.

The unit is rounding errors: `u` and `v` of one move a group's weights by one step, root mean
square, `w` of one moves a float array by the share of it that quantized weights lost.
"""
_LEAST_SPREAD: Final = 0.5
"""Of the codes of a group, in steps: where they are all the same their scale hardly matters."""
_FLOATS: Final = ("weight", "bias")


@dataclass(frozen=True, slots=True)
class Stored:
    """One module as stored: codes uint8 (..., out, groups, group), the rest (..., out, groups).

    `middle` and `spread` are mean and deviation of a group's codes.
    """

    codes: mx.array
    scales: mx.array
    biases: mx.array
    middle: mx.array
    spread: mx.array
    dtype: mx.Dtype

    @classmethod
    def of(cls, module: Any) -> Stored:
        """Read a quantized module."""
        ones, zeros = mx.ones(module.scales.shape), mx.zeros(module.scales.shape)
        group = module.group_size
        flat = mx.dequantize(module.weight, ones, zeros, group_size=group, bits=module.bits)
        codes = mx.unflatten(flat, -1, (-1, group))
        stored = cls(
            codes.astype(mx.uint8),
            module.scales.astype(mx.float32),
            module.biases.astype(mx.float32),
            codes.mean(-1),
            mx.maximum(mx.std(codes, axis=-1), _LEAST_SPREAD),
            module.scales.dtype,
        )
        mx.eval(stored.codes, stored.scales, stored.biases, stored.middle, stored.spread)
        return stored

    def grid(self, u: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        """Return float32 scales and biases; the scale turns around the middle of the codes."""
        turned = u / self.spread
        return self.scales * (1 + turned), self.biases + self.scales * (v - self.middle * turned)

    def loss(self, weight: mx.array) -> float:
        """Return the root mean square error over that of the weights."""
        value = self.codes * self.scales[..., None] + self.biases[..., None]
        weight = weight.reshape(value.shape)
        return float(
            mx.sqrt(((value - weight) ** 2).mean() / mx.maximum((weight**2).mean(), 1e-30))
        )


@dataclass(frozen=True, slots=True)
class _Float:
    """An array stored as floats: float32 `value`; `unit` is how far a `w` of one moves it."""

    owner: str
    leaf: str
    value: mx.array
    unit: float
    dtype: mx.Dtype


class Student:
    """The model of `checkpoint` with scales, biases and floats that can be moved.

    Floats are what the checkpoint stores unquantized under the names `weight` and `bias`: norms
    and modules that were kept.
    """

    def __init__(self, checkpoint: Path, original: nn.Module) -> None:
        stored, _ = load_model(
            checkpoint,
            lazy=True,
            model_config={"model_file": None},
            get_model_classes=model_classes,
        )
        self.model = load_float32(checkpoint)
        self.model.freeze()
        self.modules = dict(self.model.named_modules())
        self.stored = {
            path: Stored.of(module)
            for path, module in stored.named_modules()
            if getattr(module, "mode", "") == "affine" and "scales" in module
        }
        self.originals = {
            path: module.weight
            for path, module in original.named_modules()
            if path in self.stored and "weight" in module
        }
        self.floats = dict(_floats(stored, self._lost()))

    def _lost(self) -> float:
        """Return the share of a weight that quantization took, in the middle of all modules."""
        found = [
            own.loss(self.originals[path])
            for path, own in self.stored.items()
            if path in self.originals and self.originals[path].size == own.codes.size
        ]
        return float(np.median(found)) if found else 0.0

    def values(self) -> Values:
        """Return values that change nothing."""
        grids = {path: own.scales.shape for path, own in self.stored.items()}
        return {
            "u": {path: mx.zeros(shape) for path, shape in grids.items()},
            "v": {path: mx.zeros(shape) for path, shape in grids.items()},
            "w": {name: mx.zeros(own.value.shape) for name, own in self.floats.items()},
        }

    def arrays(self, values: Values) -> dict[str, np.ndarray]:
        """Return what is stored by array name, bf16 as its bits."""
        return {name: _bits(array) for name, array in self.as_stored(values)}

    def as_stored(self, values: Values) -> Iterator[tuple[str, mx.array]]:
        """Yield every array but the codes in its stored dtype."""
        for path, own in self.stored.items():
            scales, biases = own.grid(values["u"][path], values["v"][path])
            yield f"{path}.scales", scales.astype(own.dtype)
            yield f"{path}.biases", biases.astype(own.dtype)
        for name, array in self.floats.items():
            yield name, (array.value + array.unit * values["w"][name]).astype(array.dtype)

    def apply(self, values: Values, *, stored: bool = False) -> nn.Module:
        """Return the model with these parameters, as they would be stored if `stored`."""
        kept = dict(self.as_stored(values)) if stored else {}
        for path, own in self.stored.items():
            scales, biases = own.grid(values["u"][path], values["v"][path])
            if stored:
                scales, biases = (
                    kept[f"{path}.{name}"].astype(mx.float32) for name in ("scales", "biases")
                )
            weight = own.codes * scales[..., None] + biases[..., None]
            self.modules[path].weight = weight.flatten(-2, -1)
        for name, array in self.floats.items():
            value = array.value + array.unit * values["w"][name]
            value = kept[name].astype(mx.float32) if stored else value
            setattr(self.modules[array.owner], array.leaf, value)
        return self.model


def _floats(stored: nn.Module, share: float) -> Iterator[tuple[str, _Float]]:
    """Yield the arrays under `weight` and `bias` that are stored as floats and are not zero."""
    arrays: Mapping[str, mx.array] = dict(tree_flatten(stored.parameters()))
    for name, array in arrays.items():
        owner, _, leaf = name.rpartition(".")
        if leaf in _FLOATS and mx.issubdtype(array.dtype, mx.floating):
            value = array.astype(mx.float32)
            unit = share * float(mx.sqrt((value**2).mean()))
            if unit > 0:
                yield name, _Float(owner, leaf, value, unit, array.dtype)


def _bits(array: mx.array) -> np.ndarray:
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)
