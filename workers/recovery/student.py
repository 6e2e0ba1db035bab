"""A quantized checkpoint as a float32 model in which everything stored can be trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten

from bitbudget.own_formats import OwnFormat
from bitbudget.workers.recovery.stored import read_stored
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.stock import stock_model

__all__ = ["Student", "Values"]

Values = dict[str, dict[str, mx.array]]
"""How far scales ("u") and biases ("v") of each module and each float ("w") moved from the stored.

The unit is rounding errors: of `u` and `v` those of `stored`, `w` of one moves a float array by the
share of it that quantized weights lost.
"""
_FLOATS: Final = ("weight", "bias")


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
        stored, _ = stock_model(checkpoint)
        self.model = load_float32(checkpoint)
        self.model.freeze()
        self.modules = dict(self.model.named_modules())
        self.stored = {
            path: read_stored(module)
            for path, module in stored.named_modules()
            if isinstance(module, OwnFormat)
            or (getattr(module, "mode", "") == "affine" and "scales" in module)
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
        grids = {path: own.shape for path, own in self.stored.items()}
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
            parameters = own.parameters(values["u"][path], values["v"][path])
            for suffix, parameter in parameters.items():
                yield f"{path}.{suffix}", parameter.astype(own.dtype)
        for name, array in self.floats.items():
            yield name, (array.value + array.unit * values["w"][name]).astype(array.dtype)

    def apply(self, values: Values, *, stored: bool = False) -> nn.Module:
        """Return the model with these parameters, as they would be stored if `stored`."""
        for path, own in self.stored.items():
            parameters = own.parameters(values["u"][path], values["v"][path])
            self.modules[path].weight = own.weight(
                own.rounded(parameters) if stored else parameters
            )
        for name, array in self.floats.items():
            value = array.value + array.unit * values["w"][name]
            value = value.astype(array.dtype).astype(mx.float32) if stored else value
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
