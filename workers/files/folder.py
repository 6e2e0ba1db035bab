"""A model folder in Hugging Face layout: its configuration and its weight files, checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidModelError, UnsupportedModelError
from bitbudget.workers.files.headers import SourceFile, read_header
from bitbudget.workers.files.layouts import GGUF

__all__ = [
    "INDEX_NAME",
    "absent_files",
    "check_config",
    "check_names",
    "decode_floats",
    "encode_floats",
    "float8_names",
    "json_object_or_empty",
    "read_config",
    "read_files",
    "read_json",
]

INDEX_NAME: Final = "model.safetensors.index.json"
MAX_JSON_BYTES: Final = 64 * 2**20
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_SHARD: Final = re.compile(r"(model.*)-(\d{5})-of-(\d{5})\.safetensors")
_MOST_SHARDS: Final = 10_000
_MOST_FILES: Final = 4096
_MOST_INDEX_BYTES: Final = 32 * 2**20
_MOST_CONFIG_BYTES: Final = 4 * 2**20
_MOST_CONTAINERS: Final = 2**18
_MODEL_TYPE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FLOAT_TAG: Final = "__float__"
_FLOATS: Final = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def read_config(folder: Path) -> JsonObject:
    """Return `config.json`, with the floats that transformers tags as objects decoded.

    Raises InvalidModelError when the folder or the file is missing or is not a JSON object,
    AlreadyQuantizedError for a GGUF, and UnsupportedModelError for code of its own.
    """
    if folder.suffix == GGUF.known_by and folder.is_file():
        raise GGUF.refusal(folder.name)
    if not folder.is_dir():
        raise InvalidModelError(
            where=str(folder),
            found="no such folder",
            expected="a model folder or a Hub id org/name",
            remedy="check the path",
        )
    path = folder / "config.json"
    if not path.is_file():
        for packed in folder.glob(f"*{GGUF.known_by}"):
            raise GGUF.refusal(packed.name)
        raise InvalidModelError(
            where=str(folder),
            found="no config.json",
            expected="a model folder in Hugging Face layout",
            remedy="give the folder that holds config.json and the safetensors files",
        )
    return check_config(read_json(path, _MOST_CONFIG_BYTES))


def check_config(config: JsonObject) -> JsonObject:
    """Return `config` when it names a model type and runs no code of its own, floats decoded."""
    config = decode_floats(config)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not _MODEL_TYPE.fullmatch(model_type):
        raise InvalidModelError(
            where="config.json: model_type",
            found=repr(model_type)[:80],
            expected="the name of an architecture",
            remedy="use the config.json that belongs to the weights",
        )
    if config.get("model_file") is not None:
        raise UnsupportedModelError(
            model_type=model_type,
            reason=f"config.json asks to run {config['model_file']!r}, and bitbudget runs no code "
            "that comes with a model",
            remedy="use a model whose class is part of mlx-lm",
        )
    return config


def read_json(path: Path, most_bytes: int = MAX_JSON_BYTES) -> JsonObject:
    """Return the JSON object in `path`; InvalidModelError when it is none, or is too large."""
    if not path.is_file():
        raise _not_json(path, "a folder, a pipe or a broken link", most_bytes)
    if path.stat().st_size > most_bytes:
        raise _not_json(path, f"{path.stat().st_size} bytes", most_bytes)
    data = path.read_bytes()
    containers = data.count(b"[") + data.count(b"{")
    if most_bytes < MAX_JSON_BYTES and containers > _MOST_CONTAINERS:
        raise _not_json(path, f"{containers} lists and objects", most_bytes)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _not_json(path, str(error)[:200], most_bytes) from error
    if not isinstance(value, dict):
        raise _not_json(path, type(value).__name__, most_bytes)
    return value


def encode_floats(value: Any) -> Any:
    """Return JSON values with floats that JSON has no word for tagged as transformers does."""
    if isinstance(value, float) and not math.isfinite(value):
        name = next(name for name, known in _FLOATS.items() if repr(known) == repr(value))
        return {_FLOAT_TAG: name}
    if isinstance(value, dict):
        return {key: encode_floats(item) for key, item in value.items()}
    return [encode_floats(item) for item in value] if isinstance(value, list) else value


def _not_json(path: Path, found: str, most_bytes: int) -> InvalidModelError:
    return InvalidModelError(
        where=path.name,
        found=found,
        expected=f"a JSON object of at most {most_bytes} bytes",
        remedy="download the file again",
    )


def decode_floats(value: Any) -> Any:
    """Return JSON values with transformers' `{"__float__": "Infinity"}` as the float it means."""
    if isinstance(value, dict):
        if set(value) == {_FLOAT_TAG} and value[_FLOAT_TAG] in _FLOATS:
            return _FLOATS[value[_FLOAT_TAG]]
        return {key: decode_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decode_floats(item) for item in value]
    return value


def read_files(folder: Path) -> tuple[SourceFile, ...]:
    """Return the checked headers of every `model*.safetensors`, the files that mlx-lm loads.

    Raises InvalidModelError when there is none, or a name is stored twice. Whether the model is
    complete is seen by its tensors; `absent_files` says what may be missing then.
    """
    paths = sorted(folder.glob("model*.safetensors"))
    if not paths:
        for path in folder.glob(f"*{GGUF.known_by}"):
            raise GGUF.refusal(path.name)
        raise _no_weights(folder)
    if len(paths) > _MOST_FILES:
        raise InvalidModelError(
            where=str(folder),
            found=f"{len(paths)} weight files",
            expected=f"at most {_MOST_FILES}",
            remedy="keep the files of one model in the folder",
        )
    return check_names(read_header(path) for path in paths)


def absent_files(names: Sequence[str], folder: Path | None = None) -> tuple[str, ...]:
    """Return the weight files that the `names` of others, or an index in `folder`, speak of.

    An index that was left behind when shards were merged names files that nobody needs, so this is
    no fault of the model as long as all its tensors are there.
    """
    wanted = {
        f"{match[1]}-{index:05d}-of-{match[3]}.safetensors"
        for match in filter(None, map(_SHARD.fullmatch, names))
        for index in range(1, min(int(match[3]), _MOST_SHARDS) + 1)
    }
    index = None if folder is None else folder / INDEX_NAME
    if index is not None and index.is_file():
        try:
            shards = read_json(index, _MOST_INDEX_BYTES).get("weight_map")
        except InvalidModelError:
            shards = None
        if isinstance(shards, dict):
            wanted |= {name for name in shards.values() if isinstance(name, str)}
    return tuple(sorted(wanted - set(names)))


def json_object_or_empty(path: Path) -> JsonObject:
    """Return the JSON object in a file that a model can do without, {} where there is none.

    What is broken or nested too deep is refused by whoever needs the file.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def float8_names(files: Iterable[SourceFile]) -> frozenset[str]:
    """Return the names of the tensors in `files` that are 8-bit floats, E4M3."""
    tensors = (tensor for file in files for tensor in file.tensors)
    return frozenset(tensor.name for tensor in tensors if tensor.dtype is Dtype.F8_E4M3)


def check_names(files: Iterable[SourceFile]) -> tuple[SourceFile, ...]:
    """Return `files` when no tensor is stored twice."""
    files = tuple(files)
    seen: dict[str, str] = {}
    for tensor in (tensor for file in files for tensor in file.tensors):
        if tensor.name in seen:
            raise InvalidModelError(
                where=f"{tensor.file}: {tensor.name}",
                found=f"a tensor that {seen[tensor.name]} holds too",
                expected="each tensor in one file",
                remedy="remove the files of another copy of the model from the folder",
            )
        seen[tensor.name] = tensor.file
    return files


def _no_weights(folder: Path) -> InvalidModelError:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        return InvalidModelError(
            where=str(folder),
            found=f"pickled weights only ({pickles[0]})",
            expected="model*.safetensors",
            remedy="convert them to safetensors; a pickle can run code and is never opened",
        )
    return InvalidModelError(
        where=str(folder),
        found="no weight file",
        expected="model*.safetensors",
        remedy="download the safetensors files of the model",
    )
