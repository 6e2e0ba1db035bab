"""Which module of a layer an activation that is no number came from."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
from mlx import nn

from bitbudget.workers.running.layer_calls import LayerCall
from bitbudget.workers.running.taps import Call, Tape, tapped

__all__ = ["first_broken"]


@dataclass(slots=True)
class _Watch(Tape):
    """Looks at what goes in and out of every module instead of recording it."""

    found: str = ""

    def record(self, call: Call, output: mx.array) -> mx.array:
        for what, array in (("input", call.inputs), ("output", output)):
            if not self.found and not bool(mx.isfinite(array).all()):
                self.found = f"the {what} of {call.path}"
        return output


def first_broken(layer: nn.Module, prefix: str, call: LayerCall, hidden: mx.array) -> str:
    """Return where in `layer`, whose path is `prefix`, NaN or infinity shows first, or ""."""
    watch = _Watch()
    with tapped(layer, prefix, watch):
        mx.eval(call.apply(layer, hidden))
    return watch.found
