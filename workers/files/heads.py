"""Whether a model's head is its embedding: told by the stored values, not by a flag.

`tie_word_embeddings` is often missing or wrong. mlx-lm drops a stored head where the flag, or its
class's default, says tied, and asks for one where it says untied.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import UnsupportedModelError
from bitbudget.workers.files.headers import SourceFile, TensorRef
from bitbudget.workers.files.language_part import text_part, with_setting

__all__ = ["EMBEDDING", "REMOTE_BYTES", "Accepted", "Head", "Read", "check_kept", "find_head"]

Read = Callable[[TensorRef], bytes]
"""Returns the bytes of a tensor, or of the part of one that a TensorRef describes."""

Accepted = Callable[[Mapping[str, Any]], Collection[str] | None]
"""Returns the settings that mlx-lm's class for a configuration reads, None where nobody knows."""

_FLAG: Final = "tie_word_embeddings"
_HEAD: Final = re.compile(r"(?:^|\.)lm_head\.weight$")
EMBEDDING: Final = re.compile(r"(?:^|\.)(?:embed_tokens|wte|embed_in|word_embeddings)\.weight$")
_PART_BYTES: Final = 2**24

REMOTE_BYTES: Final = 2**16
"""How much of head and embedding is compared where each byte comes from the Hub."""


@dataclass(frozen=True, slots=True)
class Head:
    """What to change in the configuration, which tensors to leave out, and what to tell.

    `own` is the stored head that differs from the embedding, "" where there is none.
    """

    config: JsonObject
    unused: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    own: str = ""


def find_head(
    config: JsonObject,
    files: Iterable[SourceFile],
    read: Read,
    accepted: Accepted,
    *,
    most_bytes: int | None = None,
) -> Head:
    """Return the configuration whose tie flag is true to the stored values.

    `accepted` tells whether the class reads the flag. `most_bytes` bounds how much of both tensors
    is compared. Raises UnsupportedModelError for a model that says it has a head of its own and
    stores none.
    """
    tensors = {tensor.name: tensor for file in files for tensor in file.tensors}
    head, embedding = _only(tensors, _HEAD), _only(tensors, EMBEDDING)
    text = text_part(config)
    inner = {"model_type": config["model_type"], **text} if text else config
    known = accepted(inner)
    if embedding is None or (known is not None and _FLAG not in known):
        differs = head is not None and not (
            embedding is not None and _equal(head, embedding, read, most_bytes)
        )
        return Head(config, own=head.name if head is not None and differs else "")
    stated = inner.get(_FLAG, config.get(_FLAG))
    if head is None:
        if stated is False and known is not None:
            raise _no_head(config)
        return Head(with_setting(config, _FLAG, value=True))
    if _equal(head, embedding, read, most_bytes):
        note = f"{head.name} equals {embedding.name}: stored once, as tied"
        notes = () if stated else (note,)
        return Head(with_setting(config, _FLAG, value=True), frozenset({head.name}), notes)
    flag = "missing" if stated is None else str(stated).lower()
    note = f"{head.name} differs from {embedding.name}: kept as a head of its own ({_FLAG}: {flag})"
    notes = () if stated is False else (note,)
    return Head(with_setting(config, _FLAG, value=False), notes=notes, own=head.name)


def check_kept(own: str, names: Iterable[str], model_type: str) -> None:
    """Raise UnsupportedModelError when the class has no place among `names` for the own head."""
    if own and not any(_HEAD.search(name) for name in names):
        raise UnsupportedModelError(
            model_type=model_type,
            reason=f"{own} has values of its own, and mlx-lm's class for this type always uses the"
            " embedding as the head: it would compute another model",
            remedy="tie the head, or choose a model that mlx-lm runs as it is",
        )


def _no_head(config: Mapping[str, Any]) -> UnsupportedModelError:
    return UnsupportedModelError(
        model_type=config["model_type"],
        reason="it stores no lm_head and says that its head is not its embedding: a model without "
        "a head, such as an embedding model, predicts no tokens",
        remedy=f"give a language model, or set {_FLAG} to true if the head is the embedding",
    )


def _only(tensors: Mapping[str, TensorRef], pattern: re.Pattern[str]) -> TensorRef | None:
    found = [tensor for name, tensor in tensors.items() if pattern.search(name)]
    found = [tensor for tensor in found if not tensor.name.startswith(("mtp.", "model.mtp."))]
    return found[0] if len(found) == 1 else None


def _equal(first: TensorRef, second: TensorRef, read: Read, most_bytes: int | None) -> bool:
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    stop = first.nbytes if most_bytes is None else min(most_bytes, first.nbytes)
    return all(
        read(_part(first, start, stop)) == read(_part(second, start, stop))
        for start in range(0, stop, _PART_BYTES)
    )


def _part(tensor: TensorRef, start: int, stop: int) -> TensorRef:
    nbytes = min(_PART_BYTES, stop - start)
    return TensorRef(
        tensor.file, tensor.name, tensor.dtype, (nbytes,), tensor.offset + start, nbytes
    )
