"""The windows that predictions of a model are verified on, and the original's predictions there."""

from __future__ import annotations

from bitbudget.app.core.effort import verifying_windows
from bitbudget.workers.evaluate.cache import ReferenceCache
from bitbudget.workers.evaluate.reference import Reference, job_rollouts
from bitbudget.workers.pipeline.measuring.tokens import unused_text
from bitbudget.workers.pipeline.run import Run, Variant

__all__ = ["verifying_reference"]


def verifying_reference(run: Run, variant: Variant) -> Reference:
    """Return windows of the user's text that were not used yet, or else rollouts of the model.

    No statistics were made on them, and no checkpoint is evaluated on them.
    """
    checkpoint, options, report = variant.checkpoint, variant.options, run.report
    folder = checkpoint.folder
    cache = ReferenceCache(run.home.reference(checkpoint.identity(run.home.digests).digest))
    weights = variant.inventory.weights
    windows = unused_text(folder, weights, options, verifying_windows(weights))
    if windows is None:
        windows, _ = job_rollouts(
            folder,
            seed=options.seed,
            cache=cache,
            progress=lambda done, total: report.progress(done, total, "tokens", "rollouts"),
        )
    return Reference.on(folder, windows, cache=cache)
