"""From a Hub id to a checkpoint: by its headers alone, whole, or shard by shard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

import mlx.core as mx

from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.hub_id import HubId
from bitbudget.app.core.sizes import format_size
from bitbudget.workers.files.limits import reading
from bitbudget.workers.hub.client import Hub, HubModel
from bitbudget.workers.hub.download import Downloader, Progress, model_folder
from bitbudget.workers.hub.headers import RemoteHeaders, read_remote_headers, weight_files
from bitbudget.workers.hub.shards import ShardStore
from bitbudget.workers.models import Checkpoint, TensorRef, checkpoint_from_headers
from bitbudget.workers.models.arrays import load_files
from bitbudget.workers.models.packed import Packed, packed_weights

__all__ = ["open_remote", "open_remote_headers"]

_MOST_BESIDE_BYTES: Final = 2 * 2**30
"""Tokenizers and licences take megabytes."""
_COMPANIONS: Final = (
    "*.json",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "*.txt",
    "LICENSE*",
)
"""What is downloaded beside the weights: configuration and tokenizer, never code or pickles."""


def open_remote_headers(
    hub: Hub, hub_id: HubId, *, allow_quantized_source: bool = False
) -> Checkpoint:
    """Return the checkpoint as its headers tell it: a few hundred kB are read, no weight.

    Raises InvalidModelError, UnsupportedModelError, NotFoundError, HubAccessError or
    HubUnavailableError.
    """
    model = hub.resolve(hub_id)
    with reading():
        known = read_remote_headers(hub, model)
        return _outline(hub, known, allow_quantized_source=allow_quantized_source)


def open_remote(
    hub: Hub,
    hub_id: HubId,
    home: Path,
    *,
    disk_limit_bytes: int | None = None,
    whole: bool = False,
    allow_quantized_source: bool = False,
    check: Callable[[Checkpoint], None] = lambda _: None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Return the checkpoint with its files under `home`, verified.

    `check` gets the checkpoint as its headers tell it, before anything else of it is downloaded;
    what it raises ends this.

    With a limit, weight files are downloaded when they are read and removed when others need their
    room; `whole` says that all of them will be needed at once, which a limit below their sum
    refuses before anything is downloaded. A model that cannot be used is refused then, too.
    """
    model = hub.resolve(hub_id)
    with reading():
        known = read_remote_headers(hub, model)
        outline = _outline(hub, known, allow_quantized_source=allow_quantized_source)
    check(outline)
    downloader = Downloader(hub, model, model_folder(home, model), progress)
    files = weight_files(model)
    store = ShardStore(downloader, files, disk_limit_bytes)
    total = sum(file.nbytes for file in files)
    streamed = disk_limit_bytes is not None and disk_limit_bytes < total
    if whole and streamed:
        raise _limit_too_low(disk_limit_bytes, total)
    companions = _companions(model)
    beside = sum(model.file(name).nbytes for name in companions)
    if beside > min(disk_limit_bytes or _MOST_BESIDE_BYTES, _MOST_BESIDE_BYTES):
        raise _too_much_beside(model, beside, disk_limit_bytes)
    for name in companions:
        downloader.fetch(name)
    names = [file.name for file in files]
    packed = packed_weights(known.config, known.files) if allow_quantized_source else Packed()
    if not streamed:
        for name in names:
            store.ensure(name)

    def load() -> dict[str, mx.array]:
        if streamed:
            raise _limit_too_low(disk_limit_bytes, total)
        return packed.dense(load_files([downloader.folder / name for name in names]))

    here = replace(outline, folder=downloader.folder, load=load)
    if not streamed:
        return here

    def peek(tensor: TensorRef) -> bytes:
        return hub.read(model, tensor.file, tensor.offset, tensor.offset + tensor.nbytes)

    return replace(here, outline=outline.load, hold=store.hold, peek=peek)


def _outline(hub: Hub, known: RemoteHeaders, *, allow_quantized_source: bool) -> Checkpoint:
    model = known.model

    def read(tensor: TensorRef) -> bytes:
        return hub.read(model, tensor.file, tensor.offset, tensor.offset + tensor.nbytes)

    return checkpoint_from_headers(
        model.repository,
        model.commit,
        known.config,
        known.files,
        known.digest,
        read=read,
        allow_quantized_source=allow_quantized_source,
    )


def _companions(model: HubModel) -> list[str]:
    names = [file.name for file in model.files]
    return [name for name in names if any(fnmatch(name, pattern) for pattern in _COMPANIONS)]


def _too_much_beside(model: HubModel, nbytes: int, limit_bytes: int | None) -> InvalidRequestError:
    most = min(limit_bytes or _MOST_BESIDE_BYTES, _MOST_BESIDE_BYTES)
    return InvalidRequestError(
        where=model.repository,
        found=f"{nbytes} bytes ({format_size(nbytes)}) of files beside the weights",
        expected=f"at most {most} ({format_size(most)})",
        remedy="raise --disk-limit, or download what is needed into a folder and give that",
    )


def _limit_too_low(limit_bytes: int | None, total_bytes: int) -> InvalidRequestError:
    return InvalidRequestError(
        where="disk limit",
        found=f"{limit_bytes} bytes",
        expected=f"at least {total_bytes} ({format_size(total_bytes)}), all weights at once",
        remedy="raise --disk-limit, or measure with --sensitivity weights, which reads one "
        "module at a time",
    )
