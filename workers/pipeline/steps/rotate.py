"""Step rotate: the variant of a model that quantizes better and computes the same."""

from __future__ import annotations

from dataclasses import replace

from bitbudget.app.contract.home import Folder
from bitbudget.app.core.errors import UnsupportedModelError
from bitbudget.app.core.requests import Rotation
from bitbudget.app.core.rotation_choice import auto_rotations
from bitbudget.workers.models import build_inventory
from bitbudget.workers.pipeline.run import Run, Variant, Variants
from bitbudget.workers.pipeline.steps.inventory import announce, check_budget
from bitbudget.workers.rotate import rotate_checkpoint

__all__ = ["run_step"]


def run_step(run: Run) -> Variants:
    """Return the models to measure: the rotation asked for, or with `auto` none and another.

    That is the strongest which the loader of the measured formats applies. UnsupportedModelError
    says why a model is not rotated; with `auto` it is noted.
    """
    original = run[Variants].last
    if original.options.rotation is not Rotation.AUTO:
        variant = _rotated(run, original, original.options.rotation)
        check_budget(run, variant.inventory)
        run.keep(variant)
        return Variants((variant,))
    own = any(not format_.is_stock for format_ in original.options.formats)
    none, other = auto_rotations(has_own_formats=own)
    plain = replace(original, options=replace(original.options, rotation=none))
    try:
        rotated = _rotated(run, original, other)
    except UnsupportedModelError as refusal:
        run.report.log(str(refusal))
        return Variants((plain,))
    run.report.weigh(variants=2)
    return Variants((plain, rotated))


def _rotated(run: Run, original: Variant, rotation: Rotation) -> Variant:
    """Return the rotated variant of `original`, made now or earlier."""
    digest = original.checkpoint.identity(run.home.digests).digest
    checkpoint, found = rotate_checkpoint(
        original.checkpoint,
        run.home.at(Folder.ROTATED) / f"{digest}-{rotation.value}",
        rotation,
        digests=run.home.digests,
        progress=lambda done, total: run.report.progress(done, total, "steps"),
    )
    run.report.log(
        f"{rotation.value} rotation: KL to the original {found.kl_nats_per_token:.1e} nats per "
        f"token, noise floor {found.noise_floor_nats_per_token:.1e}"
    )
    for reason in found.left_out:
        run.report.log(f"not rotated: {reason}")
    options = replace(original.options, rotation=rotation)
    variant = Variant(checkpoint, build_inventory(checkpoint), options)
    announce(run, variant)
    return variant
