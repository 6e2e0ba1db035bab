"""A manifest in the few numbers that people compare."""

from __future__ import annotations

from collections import Counter

from bitbudget.app.core.manifest import Manifest
from bitbudget.app.jobs.schemas import AllocationSummary, FormatShare

__all__ = ["allocation_summary"]


def allocation_summary(manifest: Manifest) -> AllocationSummary:
    """Return bytes, certificate, and modules and bytes by format."""
    modules: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for choice in manifest.modules.values():
        modules[str(choice.format)] += 1
        nbytes[str(choice.format)] += choice.bytes
    return AllocationSummary(
        file_bytes=manifest.file_bytes,
        budget_bytes=manifest.budget_bytes,
        bits_per_weight=manifest.bits_per_weight,
        slack_bytes=manifest.budget_bytes - manifest.file_bytes,
        certificate=manifest.certificate,
        formats={
            name: FormatShare(modules=modules[name], bytes=nbytes[name]) for name in sorted(modules)
        },
        notes=manifest.notes,
    )
