"""Writing a rotated model as a folder that is read like any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final

import mlx.core as mx

from bitbudget.workers.models.given import belongs_to
from bitbudget.workers.rotate.transform import Edits

__all__ = ["copy_companions", "write_config", "write_weights"]

SHARD_BYTES: Final = 2**28
_NOT_COPIED: Final = frozenset({"config.json", "model.safetensors.index.json"})
_COMPANIONS: Final = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "LICENSE*")


def _shards(weights: Mapping[str, mx.array]) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, array in weights.items():
        if filled and filled + array.nbytes > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += array.nbytes
    return shards


def write_weights(folder: Path, weights: MutableMapping[str, mx.array], edits: Edits) -> None:
    """Write `weights`, edited, in shards, and empty it: one shard is in memory at a time.

    An array that was read stays in memory as long as it is referenced, so each is taken out.
    """
    total = sum(array.nbytes for array in weights.values())
    shards = _shards(weights)
    index: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        filename = (
            "model.safetensors"
            if len(shards) == 1
            else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        arrays = {}
        for name in names:
            arrays[name] = edits.apply(name, weights.pop(name))
            mx.eval(arrays[name])
        mx.save_safetensors(str(folder / filename), arrays, metadata={"format": "mlx"})
        index |= dict.fromkeys(names, filename)
        del arrays
        mx.clear_cache()
    if len(shards) > 1:
        document = {"metadata": {"total_size": total}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(document, indent=1))


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.json."""
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))


def copy_companions(source: Path, folder: Path) -> None:
    """Copy tokenizer and other small files that stand beside the weights."""
    for pattern in _COMPANIONS:
        for path in source.glob(pattern):
            if belongs_to(path, source) and path.name not in _NOT_COPIED:
                shutil.copyfile(path, folder / path.name)
