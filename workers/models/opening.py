"""Open a checkpoint: from a local folder, or from headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import mlx.core as mx

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.own_name import own_name
from bitbudget.workers.files.dense import check_dense
from bitbudget.workers.files.element_type import wide_notes
from bitbudget.workers.files.folder import (
    absent_files,
    check_config,
    check_names,
    encode_floats,
    read_config,
)
from bitbudget.workers.files.folder import read_files as read_weight_files
from bitbudget.workers.files.headers import SourceFile, read_tensor
from bitbudget.workers.files.heads import REMOTE_BYTES, Read, find_head
from bitbudget.workers.models.arrays import MLX_DTYPES, load_files
from bitbudget.workers.models.checkpoint import Checkpoint
from bitbudget.workers.models.config import accepted_fields, understood, window_notes
from bitbudget.workers.models.packed import Packed, packed_weights
from bitbudget.workers.models.tokenizer import tokenizer_notes

__all__ = ["checkpoint_from_headers", "open_checkpoint"]


def open_checkpoint(
    folder: Path,
    name: str | None = None,
    revision: str | None = None,
    *,
    allow_quantized_source: bool = False,
) -> Checkpoint:
    """Open a local folder: headers are checked, no weight is read.

    Name and revision are by default those that the folder's path tells. Weights that were quantized
    before are decoded where `allow_quantized_source` says so (`layouts.py` has the table).

    Raises InvalidModelError and UnsupportedModelError for anything mlx-lm could not load dense.
    """
    stated = read_config(folder)
    files = read_weight_files(folder)
    config, notes = check_dense(stated, files, folder, allow_packed=allow_quantized_source)
    packed = packed_weights(stated, files) if allow_quantized_source else Packed()

    def load() -> dict[str, mx.array]:
        return packed.dense(load_files([folder / f.name for f in files]))

    known = own_name(folder)
    head = find_head(understood(config), files, partial(read_tensor, folder), accepted_fields)
    return Checkpoint(
        name or known.name,
        revision or known.revision,
        folder,
        head.config,
        files,
        load,
        unused=head.unused,
        own_head=head.own,
        decoded=packed.names,
        absent=absent_files([file.name for file in files], folder),
        notes=(
            *notes,
            *head.notes,
            *window_notes(config),
            *wide_notes(files),
            *tokenizer_notes(folder),
        ),
        renamed=_differing(head.config, stated),
    )


def checkpoint_from_headers(
    name: str,
    revision: str,
    config: JsonObject,
    files: Sequence[SourceFile],
    digest: str = "",
    *,
    read: Read | None = None,
    allow_quantized_source: bool = False,
) -> Checkpoint:
    """Return a checkpoint known by its headers alone, every weight an unevaluated zero.

    It gives an inventory, and nothing that needs values. `digest` is the identity, where known.
    `read` gives the bytes of a tensor: without it a stored head is taken for what the
    configuration says of it.
    """
    checked = check_names(files)
    stated = check_config(config)
    dense, notes = check_dense(stated, checked, allow_packed=allow_quantized_source)
    packed = packed_weights(stated, checked) if allow_quantized_source else Packed()
    dense = understood(dense)
    unused: frozenset[str] = frozenset()
    own = ""
    if read is not None:
        head = find_head(dense, checked, read, accepted_fields, most_bytes=REMOTE_BYTES)
        dense, unused, own, notes = head.config, head.unused, head.own, (*notes, *head.notes)

    def load() -> dict[str, mx.array]:
        outline = {
            tensor.name: mx.zeros(tensor.shape, MLX_DTYPES[tensor.dtype])
            for file in checked
            for tensor in file.tensors
        }
        return packed.dense(outline)

    return Checkpoint(
        name,
        revision,
        Path(),
        dense,
        checked,
        load,
        digest=digest,
        unused=unused,
        own_head=own,
        decoded=packed.names,
        absent=absent_files([file.name for file in checked]),
        notes=(*notes, *wide_notes(checked)),
        renamed=_differing(dense, stated),
    )


def _differing(config: JsonObject, stated: JsonObject) -> JsonObject:
    """Return the settings of `config` that `stated` has otherwise or not at all."""
    return {key: encode_floats(value) for key, value in config.items() if stated.get(key) != value}
