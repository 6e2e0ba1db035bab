"""A model folder in Hugging Face layout: its configuration and its weight files, checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidModelError, UnsupportedModelError
from bitbudget.workers.models.headers import SourceFile, read_header

__all__ = [
    "INDEX_NAME",
    "check_unquantized",
    "float8_names",
    "packed_layout",
    "read_config",
    "read_files",
    "source_quantization",
]

INDEX_NAME: Final = "model.safetensors.index.json"
MAX_JSON_BYTES: Final = 64 * 2**20
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_SHARD: Final = re.compile(r"(model.*)-(\d{5})-of-(\d{5})\.safetensors")
_MODEL_TYPE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FLOATS: Final = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def read_config(folder: Path) -> dict[str, Any]:
    """Return `config.json`, with the floats that transformers tags as objects decoded.

    Raises InvalidModelError when the folder or the file is missing or is not a JSON object, and
    UnsupportedModelError for code of its own.
    """
    if not folder.is_dir():
        raise InvalidModelError(
            where=str(folder),
            found="no such folder",
            expected="a model folder or a Hub id org/name",
            remedy="check the path",
        )
    path = folder / "config.json"
    if not path.is_file():
        raise InvalidModelError(
            where=str(folder),
            found="no config.json",
            expected="a model folder in Hugging Face layout",
            remedy="give the folder that holds config.json and the safetensors files",
        )
    return check_config(_decode_floats(read_json(path)))


def check_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return `config` when it names a model type and runs no code of its own."""
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


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`; InvalidModelError when it is none."""
    if not path.is_file():
        raise _not_json(path, "a folder, a pipe or a broken link")
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise _not_json(path, f"{path.stat().st_size} bytes")
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _not_json(path, str(error)[:200]) from error
    if not isinstance(value, dict):
        raise _not_json(path, type(value).__name__)
    return value


def _not_json(path: Path, found: str) -> InvalidModelError:
    return InvalidModelError(
        where=path.name,
        found=found,
        expected=f"a JSON object of at most {MAX_JSON_BYTES} bytes",
        remedy="download the file again",
    )


def _decode_floats(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"__float__"} and value["__float__"] in _FLOATS:
            return _FLOATS[value["__float__"]]
        return {key: _decode_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode_floats(item) for item in value]
    return value


def read_files(folder: Path) -> tuple[SourceFile, ...]:
    """Return the checked headers of every `model*.safetensors`, the files that mlx-lm loads.

    Raises InvalidModelError when there is none, a shard is missing, or a name is stored twice.
    """
    paths = sorted(folder.glob("model*.safetensors"))
    if not paths:
        raise _no_weights(folder)
    names = [path.name for path in paths]
    _check_complete(names)
    index = folder / INDEX_NAME
    if index.exists():
        _check_indexed(names, read_json(index))
    return check_names(read_header(path) for path in paths)


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


def _check_complete(names: Sequence[str]) -> None:
    for match in filter(None, map(_SHARD.fullmatch, names)):
        for index in range(1, int(match[3]) + 1):
            _check_present(names, f"{match[1]}-{index:05d}-of-{match[3]}.safetensors")


def _check_indexed(names: Sequence[str], index: dict[str, Any]) -> None:
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise InvalidModelError(
            where=f"{INDEX_NAME}: weight_map",
            found=repr(shards)[:80],
            expected="an object of tensor names and file names",
            remedy="download the file again",
        )
    for name in sorted(set(shards.values())):
        _check_present(names, name)


def _check_present(names: Sequence[str], name: str) -> None:
    if name not in names:
        raise InvalidModelError(
            where=name,
            found="no such file",
            expected="every shard of the model",
            remedy="download the missing shard",
        )


_PACKED: Final = {
    "qweight": "packed by AWQ or GPTQ",
    "weight_packed": "packed by compressed-tensors",
    "_scale_inv": "8-bit floats with scales",
    "weight_scale": "integers or 8-bit floats with scales",
    "_blocks": "MXFP4 blocks",
    "scales": "quantized by MLX",
}
"""What the last part of a tensor's name ends in where weights are quantized."""


def source_quantization(config: dict[str, Any]) -> str | None:
    """Return how mlx-lm would load these weights quantized, None when they are dense.

    FP8 with power-of-two scales over 32 x 32 blocks stays packed in mlx-lm; every other FP8 layout
    is dequantized by the model's own `sanitize` (mlx_lm.utils.load_model).
    """
    if config.get("quantization") is not None:
        return "mlx quantization"
    text = config.get("text_config")
    nested = text.get("quantization_config") if isinstance(text, dict) else None
    quantization = config.get("quantization_config", nested)
    if not quantization:
        return None
    if not isinstance(quantization, dict):
        return repr(quantization)[:80]
    method = str(quantization.get("quant_method"))
    if method == "fp8" and not (
        quantization.get("scale_fmt") == "ue8m0"
        and quantization.get("weight_block_size") == [32, 32]
    ):
        return None
    return method


def packed_layout(names: Iterable[str]) -> str | None:
    """Return what quantized weights tensors with these `names` hold, None for dense ones."""
    endings = sorted({name.rpartition(".")[2] for name in names})
    for ending, layout in _PACKED.items():
        for found in endings:
            if found.endswith(ending):
                return f"{layout} ({found})"
    return None


def check_unquantized(config: dict[str, Any], folder: Path | None = None) -> None:
    """Raise UnsupportedModelError when the weights are quantized already."""
    method = source_quantization(config)
    if method is None and folder is not None and (folder / "hf_quant_config.json").is_file():
        method = "modelopt"
    if method is not None:
        raise UnsupportedModelError(
            model_type=str(config.get("model_type")),
            reason=f"the weights are quantized already ({method}); errors would add up unseen",
            remedy="start from the original bf16, fp16 or fp32 checkpoint",
        )
