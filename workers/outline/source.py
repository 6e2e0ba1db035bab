"""A model's configuration and tensors as they are read from a folder or from the Hub."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import AlreadyQuantizedError
from bitbudget.app.core.hub_id import HubId
from bitbudget.app.core.own_name import own_name
from bitbudget.workers.files.dense import check_dense
from bitbudget.workers.files.element_type import wide_notes
from bitbudget.workers.files.folder import check_config, check_names, read_config, read_files
from bitbudget.workers.files.headers import SourceFile, TensorRef, read_tensor
from bitbudget.workers.files.heads import REMOTE_BYTES, Read, check_kept, find_head
from bitbudget.workers.outline.families import Head
from bitbudget.workers.outline.inventory import family_of, needs_class

__all__ = ["Source", "kept_tensors", "read_source"]


@dataclass(frozen=True, slots=True)
class Source:
    """What is known of a model: `tensors` without a stored head that equals the embedding."""

    name: str
    revision: str
    config: JsonObject
    tensors: tuple[TensorRef, ...]
    notes: tuple[str, ...]


def read_source(place: Path | HubId, *, allow_quantized: bool = False) -> Source:
    """Read config.json, headers, and as much of head and embedding as tells them apart.

    Raises InvalidModelError, UnsupportedModelError, ModelClassNeededError, AlreadyQuantizedError
    and what the Hub raises.
    """
    return (
        _on_hub(place, allow_quantized)
        if isinstance(place, HubId)
        else _in_folder(place, allow_quantized)
    )


def _in_folder(folder: Path, allow_quantized: bool) -> Source:  # noqa: FBT001
    stated, files = read_config(folder), read_files(folder)
    config, notes = _dense(stated, files, folder, allow_quantized=allow_quantized)
    known = own_name(folder)

    tensors, more = kept_tensors(config, files, partial(read_tensor, folder))
    return Source(known.name, known.revision, config, tensors, (*notes, *more, *wide_notes(files)))


def _on_hub(hub_id: HubId, allow_quantized: bool) -> Source:  # noqa: FBT001
    from bitbudget.workers.hub.client import Hub  # noqa: PLC0415, a local folder needs no network
    from bitbudget.workers.hub.headers import read_remote_headers  # noqa: PLC0415, as above

    hub = Hub()
    known = read_remote_headers(hub, hub.resolve(hub_id))
    files = check_names(known.files)
    config, notes = _dense(check_config(known.config), files, None, allow_quantized=allow_quantized)

    def read(tensor: TensorRef) -> bytes:
        stop = tensor.offset + tensor.nbytes
        return hub.read(known.model, tensor.file, tensor.offset, stop)

    tensors, more = kept_tensors(config, files, read, most_bytes=REMOTE_BYTES)
    notes = (*notes, *more, *wide_notes(files))
    return Source(known.model.repository, known.model.commit, config, tensors, notes)


def _dense(
    config: JsonObject, files: Iterable[SourceFile], folder: Path | None, *, allow_quantized: bool
) -> tuple[JsonObject, tuple[str, ...]]:
    try:
        return check_dense(config, files, folder)
    except AlreadyQuantizedError as error:
        if not allow_quantized:
            raise
        raise needs_class(
            config, f"its weights are packed, and MLX decodes them ({error})"
        ) from error


def kept_tensors(
    config: JsonObject,
    files: tuple[SourceFile, ...],
    read: Read,
    *,
    most_bytes: int | None = None,
) -> tuple[tuple[TensorRef, ...], tuple[str, ...]]:
    """Return the tensors that the class keeps, and what to tell of the head."""
    rule = family_of(config).head
    accepted = {"tie_word_embeddings"} if rule is Head.BY_FLAG else set[str]()
    head = find_head(config, files, read, lambda _: accepted, most_bytes=most_bytes)
    unused = set(head.unused)
    if rule is Head.ALWAYS_TIED:
        check_kept(head.own, (), config["model_type"])
        unused.add("lm_head.weight")
    tensors = (tensor for file in files for tensor in file.tensors)
    return tuple(tensor for tensor in tensors if tensor.name not in unused), head.notes
