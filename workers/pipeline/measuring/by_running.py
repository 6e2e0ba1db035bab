"""What the step measure learns by running the model: sensitivities, and how curves predict.

Importing this imports the whole of mlx-lm, which takes seconds; measuring by weights alone does
without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from bitbudget.app.contract.durations import (
    Work,
    rollouts_s,
    share,
    verification_s,
    verification_times,
)
from bitbudget.app.core.calibration_text import OwnText
from bitbudget.app.core.effort import EFFORTS
from bitbudget.app.core.measurement import Curve, KvCurve, Sensitivity
from bitbudget.app.core.requests import Deliver, JobRequest
from bitbudget.workers.curves.sampled import sample_size
from bitbudget.workers.fisher import Statistics
from bitbudget.workers.models.chat import bundled_prompts, own_text
from bitbudget.workers.pipeline.measuring.kv import every_full_layer, probe_kv_curves
from bitbudget.workers.pipeline.measuring.reference import verifying_reference
from bitbudget.workers.pipeline.measuring.statistics import sequence_folder, take_statistics
from bitbudget.workers.pipeline.options import StatedBudget
from bitbudget.workers.pipeline.run import Run, Variant
from bitbudget.workers.prediction.measured_kl import Coding
from bitbudget.workers.prediction.verification import (
    Deployment,
    Progress,
    Stage,
    Stages,
    Verified,
    verify,
)
from bitbudget.workers.probe.noise import PROBE_TOKENS, probe_alphas
from bitbudget.workers.running.streaming_forward import fits_whole

__all__ = ["Sensitivities", "take_sensitivities", "verified"]

_STREAMED: Final = (
    "in float32 the model takes more than half of this machine's memory: its weights are read for"
    " every pass of the verification"
)
_UNCHECKED: Final = (
    "predicted from the curves alone: at this effort no checkpoint is measured to calibrate them"
)
_CHAT: Final = "measured on the model's own chat text, its answers to questions"


@dataclass(frozen=True)
class Sensitivities:
    """What a unit of error costs: alpha by module, with the statistics behind it where taken."""

    tokens: int
    alphas: Mapping[str, float]
    modules: Statistics
    notes: tuple[str, ...] = ()
    kv_curves: tuple[KvCurve, ...] = ()


def take_sensitivities(run: Run, variant: Variant) -> Sensitivities:
    """Return them by `probe` or by `fisher`, collected now or found in the cache.

    A module that no gradient reaches (it only selects, or the text never came to it) is not free:
    it gets the median alpha, and the encoder that needs no statistics.
    """
    inventory, report = variant.inventory, run.report
    if variant.options.sensitivity is Sensitivity.PROBE:
        with report.part(0.8):
            alphas = probe_alphas(
                variant.checkpoint.folder,
                [module.path for module in inventory.modules],
                seed=variant.options.seed,
                progress=lambda done, total: report.progress(done, total, "modules", "probe"),
            )
        kv = every_full_layer(inventory, probe_kv_curves(run, variant))
        return Sensitivities(PROBE_TOKENS, alphas, Statistics(0), _text_notes(variant), kv)
    found, text = take_statistics(run, variant), _text_notes(variant)
    paths = [module.path for module in inventory.modules]
    alphas = {path: found[path].alpha_nats if path in found else 0.0 for path in paths}
    kv = every_full_layer(inventory, found.kv_curves)
    unseen = [path for path in paths if alphas[path] == 0]
    if not unseen:
        return Sensitivities(found.tokens, alphas, found, (*found.notes, *text), kv)
    seen = [alpha for alpha in alphas.values() if alpha > 0]
    typical = float(np.median(seen)) if seen else 1.0
    note = (
        f"no gradient reached {len(unseen)} modules ({unseen[0]}, ...): each is priced as the"
        " median module"
    )
    return Sensitivities(
        found.tokens,
        alphas | dict.fromkeys(unseen, typical),
        found.without(unseen),
        (*found.notes, *text, note),
        kv,
    )


def _text_notes(variant: Variant) -> tuple[str, ...]:
    """Return what a reader must know of a text that a chat model wrote, or failed to."""
    options = variant.options
    if options.text is not None:
        return ()
    if options.own_text is OwnText.CHAT:
        return (f"{_CHAT} from {len(bundled_prompts(held_out=False))} prompts",)
    _, note = own_text(variant.checkpoint.folder)
    return (note,) if note else ()


def verified(
    run: Run, variant: Variant, curves: Mapping[str, Curve], known: Sensitivities
) -> tuple[Verified | None, tuple[str, ...]]:
    """Return corrected curves and how they predict, where there are statistics to code with.

    With them comes a note on curves that were estimated.
    """
    checkpoint, inventory, options = variant.checkpoint, variant.inventory, variant.options
    report, work = run.report, run.work_on(variant)
    sampled = _sampled(variant, curves, known)
    if not known.modules:
        return None, sampled
    if not EFFORTS[options.effort].verifies:
        return None, (*sampled, _UNCHECKED)
    if not fits_whole(checkpoint.folder):
        report.log(_STREAMED)
    with report.part(share(rollouts_s(work), verification_s(work))):
        reference = verifying_reference(run, variant)
    found = verify(
        Coding(checkpoint, inventory, options.encoder, known.modules, scratch=run.home.scratch),
        curves,
        reference,
        seed=options.seed,
        deployment=_deployment(run, variant),
        stages=_stages(run, work),
    )
    return found, sampled


def _stages(run: Run, work: Work) -> Stages:
    """Return what tells how far the stages of the verification are, each by the time it takes."""
    times = verification_times(work)
    seconds = dict(zip(Stage, (times.coding_s, times.running_s, times.in_sequence_s), strict=True))

    @contextmanager
    def told(stage: Stage) -> Iterator[Progress]:
        with run.report.part(seconds[stage] / sum(seconds.values())):
            yield partial(run.report.progress, unit=stage.value, detail="verification")

    return told


def _deployment(run: Run, variant: Variant) -> Deployment | None:
    """Return the budget that is asked for; what is coded is kept where a checkpoint follows."""
    job, stated = run.find(JobRequest), run.find(StatedBudget)
    request = job if job is not None else stated.request if stated is not None else None
    if request is None or request.joint_kv:
        return None
    key = variant.options.key(variant.checkpoint.identity(run.home.digests))
    if job is None or job.deliver is not Deliver.CHECKPOINT:
        return Deployment(request, lambda _formats: None)
    return Deployment(request, lambda formats: sequence_folder(run, key, formats))


def _sampled(
    variant: Variant, curves: Mapping[str, Curve], known: Sensitivities
) -> tuple[str, ...]:
    """Return what a reader must know of curves that were estimated."""
    size, seen = sample_size(variant.options.effort), frozenset(known.modules)
    if size is None:
        return ()
    errors = [
        max(point.t2_relative_error for point in curves[module.path].points)
        for module in variant.inventory.modules
        if module.path in seen and size.takes(module.shape)
    ]
    if not errors:
        return ()
    middle, most = 100 * float(np.median(errors)), 100 * max(errors)
    note = (
        f"the curves of {len(errors)} modules are estimated from some of their rows and"
        f" columns: standard error {middle:.1f} % for the median module, {most:.1f} % at most"
    )
    return (note,)
