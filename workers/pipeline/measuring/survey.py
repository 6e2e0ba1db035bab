"""One pass over files seen for the first time: their digests and what weights alone tell."""

from __future__ import annotations

from bitbudget.workers.models.digests import known_digest, remember_digest
from bitbudget.workers.pipeline.measuring.by_weights import measuring, task_of
from bitbudget.workers.pipeline.run import Run, Variant
from bitbudget.workers.streaming import Progress, measure_tensors

__all__ = ["survey"]


def survey(run: Run, variant: Variant) -> None:
    """Hash files that are not known yet and measure the tensors in them, each byte read once.

    The step that measures finds the results in its cache. Nothing is done where sensitivity needs
    more than weights, where other machines measure, and where the files are known.
    """
    checkpoint, options, digests = variant.checkpoint, variant.options, run.home.digests
    if options.needs_whole_model or options.cluster is not None or checkpoint.digest:
        return
    folder = checkpoint.folder
    names = {f.name for f in checkpoint.files if known_digest(folder / f.name, digests) is None}
    if not names:
        return
    found = [task_of(checkpoint, module, options) for module in variant.inventory.modules]

    def tell(state: Progress) -> None:
        run.report.progress(state.done_bytes, state.total_bytes, detail=state.path)

    for _ in measure_tensors(
        [task for task in found if task is not None],
        measuring(checkpoint, options, run.home.tensors),
        progress=tell,
        whole=names,
        hashed=lambda name, sha256: remember_digest(folder / name, digests, sha256),
    ):
        continue
