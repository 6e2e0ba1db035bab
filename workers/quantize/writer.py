"""Write a checkpoint module by module, every array at the offset that was planned for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.errors import ConflictError, InvalidRequestError
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Inventory, Module, StoredArray
from bitbudget.app.core.layout import CheckpointLayout, Shard, module_arrays, plan_checkpoint
from bitbudget.app.core.manifest import Manifest
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.quantize.companions import write_companions
from bitbudget.workers.quantize.draft import Draft, disk_errors, output_exists
from bitbudget.workers.quantize.encoding import EncodePart, check_finite, weight_encoder

__all__ = ["Progress", "Written", "write_checkpoint"]

Progress = Callable[[int, int, str], None]
"""Source bytes done, source bytes in all, and what is worked on."""


@dataclass(frozen=True, slots=True)
class Written:
    """A finished checkpoint: `file_bytes` is the sum over its `*.safetensors`."""

    folder: Path
    file_bytes: int


def write_checkpoint(
    checkpoint: Checkpoint,
    inventory: Inventory,
    manifest: Manifest,
    output: Path,
    *,
    progress: Progress,
    encode_part: EncodePart | None = None,
) -> Written:
    """Write the checkpoint that `manifest` describes to `output`, which must not exist.

    One part of one module is in memory at a time. A run that was interrupted is taken up where it
    stopped. `encode_part` serves encoders that need more than the weight; by default the
    manifest's encoder works on the weight alone.

    Raises ConflictError when `output` exists or is being written, DiskFullError, and
    InvalidRequestError when the manifest is not for this model.
    """
    if output.exists():
        raise output_exists(output)
    formats = chosen_formats(manifest, inventory)
    layout = plan_checkpoint(inventory)
    shards = layout.files(formats)
    key = f"{manifest.sha256} {checkpoint.name}"
    total = sum(shard.nbytes for shard in shards)
    with Draft(output, key, shards) as draft, disk_errors(draft.folder, total):
        writer = _Writer(checkpoint, draft, encode_part or weight_encoder(manifest.encoder))
        writer.write_all(layout, formats, shards, progress)
        write_companions(checkpoint, draft.files, manifest, inventory, shards)
        _check_sizes(draft.files, shards)
        draft.publish()
    return Written(output, total)


def chosen_formats(manifest: Manifest, inventory: Inventory) -> dict[str, Format]:
    """Return the format per path; InvalidRequestError when the manifest does not fit the model."""
    formats = manifest.formats
    paths = {module.path for module in inventory.modules}
    odd = sorted(paths ^ formats.keys())
    if odd:
        raise InvalidRequestError(
            where=f"manifest.modules.{odd[0]}",
            found="a module that only one of manifest and model has",
            expected="the modules of the model",
            remedy="allocate for this model",
        )
    for module in inventory.modules:
        if not formats[module.path].is_legal(module.in_features, module.dtype):
            raise InvalidRequestError(
                where=f"manifest.modules.{module.path}",
                found=str(formats[module.path]),
                expected=f"a group that divides {module.in_features} inputs",
                remedy="allocate for this model",
            )
    return formats


@dataclass(frozen=True)
class _Writer:
    checkpoint: Checkpoint
    draft: Draft
    encode_part: EncodePart

    def write_all(
        self,
        layout: CheckpointLayout,
        formats: Mapping[str, Format],
        shards: tuple[Shard, ...],
        progress: Progress,
    ) -> None:
        items = [
            (item, shard)
            for items, shard in zip(layout.shards, shards, strict=True)
            for item in items
        ]
        total = sum(_source_bytes(item) for item, _ in items)
        done = 0
        for item, shard in items:
            name = item.path if isinstance(item, Module) else item.name
            if name not in self.draft.done:
                self._write(item, shard, formats)
                self.draft.finish(shard.filename, name)
            done += _source_bytes(item)
            progress(done, total, name)

    def _write(
        self, item: Module | StoredArray, shard: Shard, formats: Mapping[str, Format]
    ) -> None:
        if isinstance(item, Module):
            self._write_module(item, formats[item.path], shard)
        else:
            self._write_parts(item.name, item.name, shard)

    def _write_module(self, module: Module, format_: Format, shard: Shard) -> None:
        if format_ == KEEP:
            self._write_parts(module.path, f"{module.path}.weight", shard)
            return
        parts = int(np.prod(module.shape[:-2], dtype=np.int64))
        sizes = {a.name: a.nbytes // parts for a in module_arrays(module, format_)}
        for index, weight in enumerate(self.checkpoint.parts(module.path)):
            check_finite(weight, module.path)
            arrays = self.encode_part(module, index, weight, format_)
            for suffix, array in arrays.items():
                name = f"{module.path}.{suffix}"
                data = _bytes(array, name, sizes[name])
                self.draft.write(shard.filename, shard.offsets[name] + index * len(data), data)

    def _write_parts(self, path: str, name: str, shard: Shard) -> None:
        position = shard.offsets[name]
        for part in self.checkpoint.parts(path):
            check_finite(part, path)
            data = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
            self.draft.write(shard.filename, position, data)
            position += len(data)


def _bytes(array: npt.NDArray[Any], name: str, expected: int) -> bytes:
    data = array.tobytes()
    if len(data) != expected:
        msg = f"{name}: {len(data)} bytes encoded, {expected} planned"
        raise ValueError(msg)
    return data


def _source_bytes(item: Module | StoredArray) -> int:
    return item.nbytes if isinstance(item, StoredArray) else item.weights * item.dtype.itemsize


def _check_sizes(folder: Path, shards: tuple[Shard, ...]) -> None:
    """Compare the files with the plan: predicted bytes are real bytes, or nothing is published."""
    found = {path.name: path.stat().st_size for path in folder.glob("*.safetensors")}
    planned = {shard.filename: shard.nbytes for shard in shards}
    if found != planned:
        raise ConflictError(
            what="checkpoint",
            name=str(folder),
            reason=f"files are {found}, planned were {planned}",
            remedy="report this with the manifest",
        )
