"""What an engine with int8 products would make of an answer: how much of it, and at what KL."""

from __future__ import annotations

import math

from bitbudget.app.core.activations import INT8, INT8_NATS, runs_int8
from bitbudget.app.core.formats import KEEP
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.dashboard import formatting as words
from bitbudget.app.dashboard.figures.figure import Figure

__all__ = ["int8_figure"]


def int8_figure(measurement: Measurement, manifest: Manifest) -> Figure | None:
    """Return what rounding the inputs of each quantized module costs, the dearest first.

    None where the measurement has no statistics to tell from.
    """
    formats = manifest.formats
    costs = {
        curve.path: curve.features[INT8_NATS]
        for curve in measurement.curves
        if INT8_NATS in curve.features and formats[curve.path] != KEEP
    }
    if not costs:
        return None
    sizes = {path: choice.bytes for path, choice in manifest.modules.items()}
    so = {path for path in sizes if runs_int8(formats[path])}
    share = sum(sizes[path] for path in so) / manifest.file_bytes
    there = math.fsum(cost for path, cost in costs.items() if path in so)
    return Figure(
        name="int8",
        title="On an engine with int8 products",
        summary=(
            f"Engines that round activations to {INT8} take affine weights of 4 or 5 bits in groups"
            f" of 64: {share:.0%} of these files. Rounding what those modules read costs"
            f" {words.kl(there)} nats per token more, {words.kl(math.fsum(costs.values()))} for"
            " every quantized module, as predicted from the statistics behind the curves; bitbudget"
            " evaluate --activations measures it."
        ),
        columns=("module", "format", "bytes", "runs int8", "KL, nats per token"),
        rows=tuple(
            (path, str(formats[path]), sizes[path], "yes" if path in so else "no", costs[path])
            for path in sorted(costs, key=lambda path: -costs[path])
        ),
    )
