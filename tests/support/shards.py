"""The sample model cut into shards."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlx.core as mx

__all__ = ["in_three_shards"]


def in_three_shards(model: Path, folder: Path) -> Path:
    """Write the single-file `model` to `folder` as three files, its tensors in order of name."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    arrays = mx.load(str(model / "model.safetensors"))
    assert isinstance(arrays, dict)
    names = sorted(arrays)
    third = -(-len(names) // 3)
    for index in range(3):
        part = {name: arrays[name] for name in names[index * third : (index + 1) * third]}
        mx.save_safetensors(str(folder / f"model-{index + 1:05d}-of-00003.safetensors"), part)
    return folder
