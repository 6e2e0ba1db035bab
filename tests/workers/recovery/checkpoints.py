"""Quantized checkpoints of tiny models to train."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.utils import load_model, quantize_model, save_model

from tests.workers.models.tiny import write_tiny

__all__ = ["quantized", "tiny"]


def tiny(folder: Path, dtype: mx.Dtype = mx.bfloat16, model_type: str = "llama") -> Path:
    """Write a tiny model of `model_type` in `dtype`."""
    write_tiny(folder, model_type)
    weights: Any = mx.load(str(folder / "model.safetensors"))
    wide = {name: 4 * array.astype(mx.float32) for name, array in weights.items()}
    arrays = {name: array.astype(dtype) for name, array in wide.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, metadata={"format": "mlx"})
    return folder


def quantized(original: Path, folder: Path, predicate: Any = None, bits: int = 3) -> Path:
    """Write `original` quantized by mlx-lm in groups of 32; `predicate` as in `quantize_model`."""
    model, config = load_model(original)
    if predicate is not None:
        config.pop("quantization", None)
    model, config = quantize_model(model, config, 32, bits, quant_predicate=predicate)
    assert isinstance(model, nn.Module)
    folder.mkdir()
    save_model(folder, model)
    (folder / "config.json").write_text(json.dumps(config))
    for extra in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        if (original / extra).is_file():
            shutil.copy(original / extra, folder)
    return folder
