"""Step quantize: the checkpoint of a manifest."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Final

from bitbudget.app.core.errors import ConflictError
from bitbudget.app.core.manifest import Manifest
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.pipeline.measuring.statistics import manifest_encoder, sequence_folder
from bitbudget.workers.pipeline.options import QuantizeOptions
from bitbudget.workers.pipeline.run import Delivered, Run, Variant
from bitbudget.workers.quantize import write_checkpoint
from bitbudget.workers.quantize.draft import clear_published, output_exists
from bitbudget.workers.quantize.encoding import EncodePart
from bitbudget.workers.recovery import finish

_LOOK_SECONDS: Final = 1.0

__all__ = ["check_same_model", "finished_checkpoint", "run_step"]


def run_step(run: Run) -> Delivered:
    """Write the checkpoint of the manifest, or find it whole from an earlier run.

    What a killed run had decided about training it is carried out.
    """
    manifest, variant = run[Manifest], run[Variant]
    check_same_model(run[Checkpoint], manifest)
    output = run[QuantizeOptions].output or _default(run, manifest)
    clear_published(output.parent)
    found = finished_checkpoint(output, manifest)
    if found is None and output.exists():
        raise output_exists(output)
    if found is not None:
        finish(output)
        run.report.progress(found.file_bytes, found.file_bytes)
        return found
    with run.report.part(0.5):
        encode_part = manifest_encoder(run, variant, manifest)
    written = _write(run, variant, manifest, output, encode_part)
    place = sequence_folder(run, manifest.measurement, manifest.formats)
    shutil.rmtree(place, ignore_errors=True)
    return written


def _write(
    run: Run, variant: Variant, manifest: Manifest, output: Path, encode_part: EncodePart
) -> Delivered:
    """Write the checkpoint; where another process of this home writes the same, take that one's."""
    while True:
        try:
            written = write_checkpoint(
                variant.checkpoint,
                variant.inventory,
                manifest,
                output,
                progress=lambda done, total, detail: run.report.progress(
                    done, total, detail=detail
                ),
                encode_part=encode_part,
            )
        except ConflictError:
            found = finished_checkpoint(output, manifest)
            if found is not None:
                return found
            if run[QuantizeOptions].output is not None or output.exists():
                raise
            time.sleep(_LOOK_SECONDS)
        else:
            return Delivered(written.folder, written.file_bytes)


def _default(run: Run, manifest: Manifest) -> Path:
    return run.home.checkpoint(manifest.model.name.replace("/", "--"), manifest.sha256)


def finished_checkpoint(folder: Path, manifest: Manifest) -> Delivered | None:
    """Return what `folder` holds when it is this manifest's checkpoint, with all its bytes."""
    path = folder / "manifest.json"
    if not path.is_file() or path.read_bytes() != manifest.to_bytes():
        return None
    file_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return Delivered(folder, file_bytes) if file_bytes == manifest.file_bytes else None


def check_same_model(checkpoint: Checkpoint, manifest: Manifest) -> None:
    """Raise ConflictError when `manifest` is for other weights than those in the files now.

    The files are hashed anew: what a manifest is applied to is never taken from a cache.
    """
    digest = checkpoint.identity().digest
    if digest != manifest.model.digest:
        raise ConflictError(
            what="manifest",
            name=manifest.sha256[:12],
            reason=f"it is for {manifest.model.name} with digest {manifest.model.digest[:12]}, "
            f"and these weights have {digest[:12]}",
            remedy="allocate for this model, or give the model that the manifest names",
        )
