"""The headers of a model's weight files, read by range requests before any download."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from bitbudget.app.core.canonical import JsonObject, canonical_json, sha256_of
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.files.headers import LENGTH_BYTES, SourceFile, header_length, parse_header
from bitbudget.workers.files.layouts import GGUF
from bitbudget.workers.hub.client import Hub, HubFile, HubModel
from bitbudget.workers.hub.download import check_digest

__all__ = ["RemoteHeaders", "read_remote_headers", "weight_files"]

FIRST_READ_BYTES: Final = 2**16
"""Enough for the whole header of most shards, so that one request per file does."""

_MAX_CONFIG_BYTES: Final = 16 * 2**20
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True)
class RemoteHeaders:
    """What is known of a model on the Hub before its weights are downloaded.

    `digest` is the identity that a local folder of the same files has.
    """

    model: HubModel
    config: JsonObject
    files: tuple[SourceFile, ...]
    digest: str


def read_remote_headers(hub: Hub, model: HubModel) -> RemoteHeaders:
    """Read config.json and the header of every weight file: a few hundred kB for most models.

    Raises InvalidModelError for weights that are not safetensors or whose header is wrong.
    """
    weights = weight_files(model)
    raw = _read_config(hub, model)
    files = tuple(_read_header(hub, model, file) for file in weights)
    digests = {file.name: file.sha256 for file in weights} | {"config.json": sha256_of(raw)}
    return RemoteHeaders(model, _parse(raw, model), files, sha256_of(canonical_json(digests)))


def weight_files(model: HubModel) -> tuple[HubFile, ...]:
    """Return the `model*.safetensors` of the commit, which are the files mlx-lm loads."""
    files = sorted(
        (f for f in model.files if f.name.startswith("model") and f.name.endswith(".safetensors")),
        key=lambda file: file.name,
    )
    if files:
        return tuple(files)
    packed = next((file.name for file in model.files if file.name.endswith(GGUF.known_by)), None)
    if packed:
        raise GGUF.refusal(packed)
    pickles = [file.name for file in model.files if file.name.endswith(_PICKLES)]
    raise InvalidModelError(
        where=f"{model.repository}@{model.commit[:12]}",
        found=f"pickled weights only ({pickles[0]})" if pickles else "no weight file",
        expected="model*.safetensors",
        remedy="choose a repository with safetensors; a pickle can run code and is never opened",
    )


def _read_config(hub: Hub, model: HubModel) -> bytes:
    file = model.file("config.json")
    if file.nbytes > _MAX_CONFIG_BYTES:
        raise InvalidModelError(
            where=model.describe(file.name),
            found=f"{file.nbytes} bytes",
            expected=f"at most {_MAX_CONFIG_BYTES}",
            remedy="choose another repository",
        )
    raw = hub.read(model, file.name, 0, file.nbytes)
    check_digest(model, file, raw)
    return raw


def _parse(raw: bytes, model: HubModel) -> JsonObject:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        found = str(error)[:120]
    else:
        if isinstance(value, dict):
            return value
        found = f"a {type(value).__name__}"
    raise InvalidModelError(
        where=model.describe("config.json"),
        found=found,
        expected="a JSON object",
        remedy="choose another revision",
    )


def _read_header(hub: Hub, model: HubModel, file: HubFile) -> SourceFile:
    data = hub.read(model, file.name, 0, FIRST_READ_BYTES)
    length = header_length(data[:LENGTH_BYTES], file.name, file.nbytes)
    stop = LENGTH_BYTES + length
    if stop > len(data):
        data += hub.read(model, file.name, len(data), stop)
    return parse_header(file.name, data[LENGTH_BYTES:stop], file.nbytes)
