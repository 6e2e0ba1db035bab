"""Step quantize: the checkpoint of a manifest."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitbudget.app.contract.steps import Step
from bitbudget.app.core.errors import ConflictError
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.manifest import Manifest
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.pipeline.home import Home, write_whole
from bitbudget.workers.pipeline.measuring.statistics import SEQUENCE, manifest_encoder
from bitbudget.workers.pipeline.report import Reporter
from bitbudget.workers.quantize import Written, write_checkpoint
from bitbudget.workers.quantize.draft import clear_published, output_exists
from bitbudget.workers.quantize.output import check_folder, check_output

__all__ = ["check_same_model", "claimed_output", "finished_checkpoint", "quantize"]


def quantize(
    checkpoint: Checkpoint,
    inventory: Inventory,
    manifest: Manifest,
    output: Path,
    reporter: Reporter,
    *,
    home: Home,
) -> Written:
    """Write the checkpoint to `output`, or find it there whole from an earlier run."""
    report = reporter.step(Step.QUANTIZE)
    clear_published(output.parent)
    found = finished_checkpoint(output, manifest)
    if found is None and output.exists():
        raise output_exists(output)
    if found is not None:
        report.progress(found.file_bytes, found.file_bytes)
        return found

    def progress(done: int, total: int, detail: str) -> None:
        report.progress(done, total, detail=detail)

    written = write_checkpoint(
        checkpoint,
        inventory,
        manifest,
        output,
        progress=progress,
        encode_part=manifest_encoder(checkpoint, inventory, manifest, home, report),
    )
    shutil.rmtree(home.manifest(manifest.sha256) / SEQUENCE, ignore_errors=True)
    return written


def finished_checkpoint(folder: Path, manifest: Manifest) -> Written | None:
    """Return what `folder` holds when it is this manifest's checkpoint, with all its bytes."""
    path = folder / "manifest.json"
    if not path.is_file() or path.read_bytes() != manifest.to_bytes():
        return None
    file_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return Written(folder, file_bytes) if file_bytes == manifest.file_bytes else None


@contextmanager
def claimed_output(output: Path, home: Home) -> Iterator[None]:
    """Refuse an output that exists before any work is done, unless a killed run of ours made it.

    Until the block ends well, a later run may go on with what this one leaves behind.
    """
    check_folder(home.folder, "BITBUDGET_HOME")
    check_output(output)
    mark = home.unfinished(output)
    if output.exists() and not mark.exists():
        raise output_exists(output)
    write_whole(mark, str(output).encode())
    try:
        yield
    except BaseException:
        if not output.exists() and not (output.parent / f".{output.name}.partial").exists():
            mark.unlink(missing_ok=True)
        raise
    mark.unlink(missing_ok=True)


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
