"""What everybody else would do with the same bytes: uniform precision."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bitbudget.app.contract.home import Folder
from bitbudget.app.contract.reports import Baseline, Rival, UniformRival
from bitbudget.app.core.allocation import Allocation
from bitbudget.app.core.baselines import UNIFORM, uniform_formats
from bitbudget.app.core.canonical import canonical_json, sha256_of
from bitbudget.app.core.effort import measured_rivals
from bitbudget.app.core.encoders import ENCODERS
from bitbudget.app.core.formats import Format
from bitbudget.app.core.layout import plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Encoder, Measurement
from bitbudget.app.core.requests import AllocationRequest, JobRequest
from bitbudget.workers.pipeline.measuring.statistics import manifest_encoder
from bitbudget.workers.pipeline.run import Measured, Run, Variant
from bitbudget.workers.pipeline.steps.allocate import answered_manifest
from bitbudget.workers.pipeline.steps.evaluate import Judge
from bitbudget.workers.quantize import write_checkpoint

__all__ = ["compare_with_uniform", "uniform_manifest"]


def uniform_manifest(measurement: Measurement, format_: Format) -> Manifest:
    """Return the manifest of the uniform checkpoint, encoded as `mx.quantize` does."""
    layout = plan_checkpoint(measurement.inventory)
    formats = uniform_formats(measurement.inventory, format_)
    nbytes = layout.file_bytes(formats)
    allocation = Allocation(
        formats=formats,
        file_bytes=nbytes,
        budget_bytes=nbytes,
        predicted_kl_nats_per_token=measurement.predicted_kl(formats),
        bound=0.0,
        gap=1.0,
        shadow_price_nats_per_byte=0.0,
        status="feasible",
        solver="uniform",
        notes=(f"uniform {format_}, for comparison",),
    )
    manifest = Manifest.build(measurement, layout, AllocationRequest(budget=nbytes), allocation)
    return manifest.model_copy(update={"encoder": Encoder.MINMAX})


_CODING: Final = 0.7
_WRITING: Final = 0.1
"""Parts of the time that a rival is made in, with error feedback and without; the rest measures
it."""


def compare_with_uniform(run: Run, judge: Judge) -> Baseline:
    """Return uniform 4-bit g64, evaluated, and our allocation in no more bytes than it takes.

    Ours is evaluated, too, unless the model is large: then it is predicted.
    """
    measurement, request = run[Measured].measurement, run[JobRequest]
    uniform = uniform_manifest(measurement, UNIFORM)
    same = AllocationRequest(
        budget=uniform.file_bytes,
        formats=request.formats,
        sqnr_floor_db=request.sqnr_floor_db,
        runtime=request.runtime,
        time_limit_seconds=request.time_limit_seconds,
    )
    rivals = measured_rivals(request.effort, measurement.inventory.weights)
    with run.report.part(1 / (1 + rivals)):
        rival = _evaluated(run, judge, uniform)
    manifest = answered_manifest(run, measurement, same)
    ours = _evaluated(run, judge, manifest) if rivals > 1 else _predicted(manifest)
    return Baseline(
        uniform=UniformRival(format=str(UNIFORM), **dict(rival)), ours_at_equal_bytes=ours
    )


def _evaluated(run: Run, judge: Judge, manifest: Manifest) -> Rival:
    """Return the report on the checkpoint of `manifest`, which is made for it alone."""
    with ExitStack() as stack:
        report = judge.judge_once(
            _stored_digest(manifest), lambda: stack.enter_context(_made(run, manifest))
        )
    return _predicted(manifest).model_copy(update={"evaluation": report})


def _predicted(manifest: Manifest) -> Rival:
    return Rival(
        sha256=manifest.sha256,
        file_bytes=manifest.file_bytes,
        predicted_kl_nats_per_token=manifest.certificate.predicted_kl_nats_per_token,
    )


def _stored_digest(manifest: Manifest) -> str:
    """Return what identifies the checkpoint of `manifest`, whatever is predicted of it."""
    formats = {path: str(choice.format) for path, choice in manifest.modules.items()}
    return sha256_of(canonical_json([manifest.measurement, manifest.encoder.value, formats]))


@contextmanager
def _made(run: Run, manifest: Manifest) -> Iterator[Path]:
    folder = run.home.at(Folder.RIVALS) / manifest.sha256
    shutil.rmtree(folder, ignore_errors=True)
    variant = run[Variant]
    try:
        with run.report.part(_CODING if ENCODERS[manifest.encoder].needs_statistics else _WRITING):
            write_checkpoint(
                variant.checkpoint,
                variant.inventory,
                manifest,
                folder,
                progress=lambda done, total, path: run.report.progress(done, total, detail=path),
                encode_part=manifest_encoder(run, variant, manifest),
            )
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
