"""Rotation before measuring: the twin of a model that quantizes better and computes the same."""

from __future__ import annotations

from bitbudget.app.contract.steps import Step
from bitbudget.app.core.errors import UnsupportedModelError
from bitbudget.app.core.requests import Rotation
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.pipeline.home import Home
from bitbudget.workers.pipeline.report import Reporter
from bitbudget.workers.rotate import rotate_checkpoint

__all__ = ["candidates", "rotated"]


def rotated(
    checkpoint: Checkpoint, rotation: Rotation, home: Home, reporter: Reporter
) -> Checkpoint:
    """Return the rotated twin of `checkpoint`, made now or earlier; itself for `none`.

    UnsupportedModelError says why this model is not rotated.
    """
    if rotation is Rotation.NONE:
        return checkpoint
    report = reporter.step(Step.MEASURE)
    digest = checkpoint.identity(home.digests).digest
    twin, found = rotate_checkpoint(
        checkpoint,
        home.folder / "rotated" / f"{digest}-{rotation.value}",
        rotation,
        digests=home.digests,
        progress=lambda done, total: report.progress(done, total, "steps", "rotation"),
    )
    report.log(
        f"{rotation.value} rotation: KL to the original {found.kl_nats_per_token:.1e} nats per "
        f"token, noise floor {found.noise_floor_nats_per_token:.1e}"
    )
    for reason in found.left_out:
        report.log(f"not rotated: {reason}")
    return twin


def candidates(
    checkpoint: Checkpoint, rotation: Rotation, home: Home, reporter: Reporter
) -> dict[Rotation, Checkpoint]:
    """Return the twins to measure: the one asked for, or for `auto` all stock mlx-lm can run."""
    if rotation is not Rotation.AUTO:
        return {rotation: rotated(checkpoint, rotation, home, reporter)}
    found = {Rotation.NONE: checkpoint}
    try:
        found[Rotation.FOLDED] = rotated(checkpoint, Rotation.FOLDED, home, reporter)
    except UnsupportedModelError as refusal:
        reporter.step(Step.MEASURE).log(str(refusal))
    return found
