"""Manifests of chosen formats, without measuring anything."""

from __future__ import annotations

import random
from collections.abc import Mapping

from bitbudget.app.core.allocation import Allocation
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import (
    KEEP_POINT,
    Curve,
    CurvePoint,
    Encoder,
    Measurement,
    Sensitivity,
)
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.workers.models import Checkpoint


def random_formats(inventory: Inventory, seed: int) -> dict[str, Format]:
    choose = random.Random(seed)  # noqa: S311, repeatable choices
    return {module.path: choose.choice(module.legal_formats()) for module in inventory.modules}


def manifest_of(
    checkpoint: Checkpoint,
    inventory: Inventory,
    formats: Mapping[str, Format],
    encoder: Encoder = Encoder.MINMAX,
) -> Manifest:
    curves = tuple(
        Curve(
            module.path,
            1.0,
            tuple(
                KEEP_POINT if format_ == KEEP else CurvePoint(format_, 0.1, 0.1)
                for format_ in module.legal_formats()
            ),
        )
        for module in inventory.modules
    )
    measurement = Measurement(
        checkpoint.identity(), inventory, encoder, Sensitivity.WEIGHTS, curves
    )
    layout = plan_checkpoint(inventory)
    file_bytes = layout.file_bytes(formats)
    allocation = Allocation(
        dict(formats), file_bytes, file_bytes, 0.1, 0.1, 0.0, 0.0, "feasible", "by hand"
    )
    return Manifest.build(measurement, layout, AllocationRequest(budget=file_bytes), allocation)
