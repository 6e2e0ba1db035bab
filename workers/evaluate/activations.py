"""What rounding activations costs: an engine's integer products, simulated in float32.

Before every quantized linear module the input of each token is rounded to integers, with a scale
for each group of channels. Weights stay what their codes stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx import nn
from mlx_lm.models.switch_layers import SwitchLinear

from bitbudget.app.core.activations import ActivationFormat
from bitbudget.rotated_model import RotatedLinear, butterfly
from bitbudget.workers.files.folder import read_files
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.rounding import rounded
from bitbudget.workers.running.streaming_forward import fits_whole

__all__ = ["Rounded", "quantized_paths", "rounded_inputs"]

_SCALES: Final = ".scales"


def quantized_paths(checkpoint: Path) -> frozenset[str]:
    """Return the modules that the files hold quantized."""
    names = (tensor.name for file in read_files(checkpoint) for tensor in file.tensors)
    return frozenset(name.removesuffix(_SCALES) for name in names if name.endswith(_SCALES))


@contextmanager
def rounded_inputs(
    model: nn.Module,
    paths: Collection[str],
    format_: ActivationFormat,
    *,
    rotate: bool = False,
) -> Iterator[None]:
    """Round what the modules at `paths` read; lookups of an embedding read nothing."""
    changed: list[tuple[nn.Module, type]] = []

    def change(x: mx.array) -> mx.array:
        return rounded(x, format_, rotate=rotate)

    for path, module in model.named_modules():
        if path in paths and (methods := _methods(module, change, format_)):
            kind = type(module)
            changed.append((module, kind))
            object.__setattr__(module, "__class__", type(kind.__name__, (kind,), methods))
    try:
        yield
    finally:
        for module, kind in changed:
            object.__setattr__(module, "__class__", kind)


def _methods(
    module: nn.Module, change: Callable[[mx.array], mx.array], format_: ActivationFormat
) -> dict[str, Any]:
    forward: Callable[..., mx.array] = type(module).__call__
    if isinstance(module, nn.Embedding):
        as_linear: Callable[..., mx.array] = type(module).as_linear
        return {"as_linear": lambda self, x: as_linear(self, change(x))}
    if isinstance(module, SwitchLinear):
        return {
            "__call__": lambda self, x, *more, **named: forward(self, change(x), *more, **named)
        }
    if isinstance(module, RotatedLinear):  # what it multiplies is rotated already
        plain: Callable[..., mx.array] = nn.Linear.__call__
        return {"__call__": lambda self, x: plain(self, rounded(butterfly(x), format_))}
    if isinstance(module, nn.Linear):
        return {"__call__": lambda self, x: forward(self, change(x))}
    return {}


class Rounded:
    """The float32 model of a checkpoint whose quantized modules read rounded inputs.

    It is read anew at every call where two models do not fit in half of the memory.
    """

    def __init__(
        self, checkpoint: Path, format_: ActivationFormat, *, rotate: bool = False
    ) -> None:
        self._checkpoint, self._format, self._rotate = checkpoint, format_, rotate
        self._held = load_float32(checkpoint) if fits_whole(checkpoint, copies=2) else None
        self._paths = quantized_paths(checkpoint)

    def __call__(self, ids: mx.array, cache: Any = None) -> mx.array:
        """Return the logits, evaluated."""
        model = load_float32(self._checkpoint) if self._held is None else self._held
        with rounded_inputs(model, self._paths, self._format, rotate=self._rotate):
            logits: mx.array = model(ids, cache=cache)
            mx.eval(logits)
        return logits
