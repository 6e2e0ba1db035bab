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
from bitbudget.workers.recovery.stored import Stored, read_codes, read_stored
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.stock import stock_model

__all__ = ["Opened", "Student", "Values"]

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


@dataclass(frozen=True, slots=True)
class Opened:
    """A float32 model to put parameters into; `packed` are modules that hold codes on disk."""

    model: nn.Module
    modules: dict[str, nn.Module]
    packed: dict[str, nn.Module]

    def drop(self, prefix: str) -> None:
        """Let go of the weights of the modules whose paths have this prefix."""
        for modules in (self.modules, self.packed):
            for path in [path for path in modules if path.startswith(prefix)]:
                modules.pop(path).clear()


class Student:
    """The model of `checkpoint` with scales, biases and floats that can be moved.

    Floats are what the checkpoint stores unquantized under the names `weight` and `bias`: norms
    and modules that were kept. Of a student that is not `whole` codes stay on disk, and `open`
    gives a model whose weights are read, and made of codes, when they are used.
    """

    def __init__(self, checkpoint: Path, original: nn.Module, *, whole: bool = True) -> None:
        self.checkpoint, self.whole = checkpoint, whole
        model, _ = stock_model(checkpoint)
        self.stored: dict[str, Stored] = {}
        originals, lost = dict(original.named_modules()), []
        for path, module in model.named_modules():
            if not _has_grid(module):
                continue
            own = read_stored(module)
            weight = getattr(originals.get(path), "weight", None)
            if weight is not None and weight.size == own.codes.size:
                lost.append(own.loss(weight))
            self.stored[path] = own if whole else own.with_codes(None)
            if not whole:
                _drop_weights(module)
                _drop_weights(originals.get(path, module))
        self.floats = dict(_floats(model, float(np.median(lost)) if lost else 0.0))
        self._opened = self._open() if whole else None

    def open(self) -> Opened:
        """Return the model that is in memory, or one of which nothing is read yet."""
        return self._opened or self._open()

    def _open(self) -> Opened:
        model = load_float32(self.checkpoint)
        model.freeze()
        packed = {} if self.whole else dict(stock_model(self.checkpoint)[0].named_modules())
        return Opened(model, dict(model.named_modules()), packed)

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
        opened = self.open()
        self.put(opened, values, stored=stored)
        return opened.model

    def put(self, opened: Opened, values: Values, *, stored: bool = False) -> None:
        """Put parameters into `opened`, those that `values` has: perhaps of a layer alone."""
        for path, u in values["u"].items():
            own = self.stored[path]
            if path in opened.packed:
                own = own.with_codes(read_codes(opened.packed[path]))
            parameters = own.parameters(u, values["v"][path])
            parameters = own.rounded(parameters) if stored else parameters
            opened.modules[path].weight = own.weight(parameters)
        for name, w in values["w"].items():
            array = self.floats[name]
            value = array.value + array.unit * w
            value = value.astype(array.dtype).astype(mx.float32) if stored else value
            setattr(opened.modules[array.owner], array.leaf, value)


def _has_grid(module: nn.Module) -> bool:
    affine = getattr(module, "mode", "") == "affine" and "scales" in module
    return isinstance(module, OwnFormat) or affine


def _drop_weights(module: nn.Module) -> None:
    for name in module.keys() - {"bias"}:
        module.pop(name)


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
