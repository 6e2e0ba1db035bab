"""The sensitivity of the KV cache, where the model can be run."""

from __future__ import annotations

import mlx.core as mx

from bitbudget.app.core.inventory import CacheKind, Inventory
from bitbudget.app.core.measurement import KvCurve, KvPoint
from bitbudget.app.core.memory import element_bytes
from bitbudget.workers.models.arrays import MLX_DTYPES
from bitbudget.workers.pipeline.run import Run, Variant
from bitbudget.workers.probe.kv import probe_kv

__all__ = ["every_full_layer", "probe_kv_curves", "source_dtype"]


def source_dtype(inventory: Inventory) -> mx.Dtype:
    """Return the type that the model computes in, and its KV cache holds."""
    widest = max((module.dtype for module in inventory.modules), key=lambda dtype: dtype.itemsize)
    return MLX_DTYPES[widest]


def probe_kv_curves(run: Run, variant: Variant) -> tuple[KvCurve, ...]:
    """Return the curves by forward passes, one cache at a time."""
    report = run.report
    return probe_kv(
        variant.checkpoint.folder,
        source_dtype(variant.inventory),
        seed=variant.options.seed,
        progress=lambda done, total: report.progress(done, total, "caches", "probe of KV caches"),
    )


def every_full_layer(inventory: Inventory, measured: tuple[KvCurve, ...]) -> tuple[KvCurve, ...]:
    """Return a curve for every full-attention layer; those not measured keep the model's type."""
    known = {curve.layer: curve for curve in measured}
    own = KvPoint(8 * element_bytes(inventory), 0.0, group_size=0)
    return tuple(
        known.get(cache.layer, KvCurve(cache.layer, (own,)))
        for cache in inventory.architecture.cache
        if cache.kind is CacheKind.FULL
    )
