"""A checkpoint for uzu, read as Mirai's converter reads it.

lalamo 0.17 (`model_import/loaders/huggingface.py`) joins the arrays of modules that read one input,
tells the width of codes from shapes alone, of 1, 4 and 8 bits, and the group from the scales. It
needs Python 3.12, so that the rules are restated here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from bitbudget.app.core.runtime import Runtime
from bitbudget.workers.running.float32 import load_float32
from tests.workers.pipeline.test_own_formats import checkpoint

JOINED = (
    ("self_attn", ("q_proj", "k_proj", "v_proj")),
    ("self_attn", ("o_proj",)),
    ("mlp", ("up_proj", "gate_proj")),
    ("mlp", ("down_proj",)),
)


def read(arrays: dict[str, mx.array], paths: list[str], columns: int) -> tuple[np.ndarray, int]:
    """Return the float32 weight of joined modules and the width of its codes, 0 for floats."""
    if f"{paths[0]}.scales" not in arrays:
        return np.concatenate(
            [np.array(arrays[f"{p}.weight"].astype(mx.float32)) for p in paths]
        ), 0
    packed, scales, biases = (
        mx.concatenate([arrays[f"{path}.{suffix}"] for path in paths])
        for suffix in ("weight", "scales", "biases")
    )
    bits = next(b for b in (1, 4, 8) if packed.shape[-1] * (32 // b) == columns)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    codes = (np.array(packed)[..., None] >> shifts & (2**bits - 1)).reshape(len(packed), -1)
    group = columns // scales.shape[-1]
    wide, low = (np.array(a.astype(mx.float32)).repeat(group, -1) for a in (scales, biases))
    return codes * wide + low, bits


def test_its_converter_reads_what_we_wrote(tmp_path: Path) -> None:
    folder, _ = checkpoint(
        tmp_path, "qwen3", ("affine4g32", "affine8g32"), runtime=Runtime.UZU, budget="85KB"
    )
    arrays: Any = mx.load(str(folder / "model.safetensors"))
    modules = dict(load_float32(folder).named_modules())
    widths = set()
    for layer in range(2):
        for block, names in JOINED:
            paths = [f"model.layers.{layer}.{block}.{name}" for name in names]
            ours = np.concatenate([np.array(modules[path].weight) for path in paths])
            found, bits = read(arrays, paths, ours.shape[-1])
            assert np.allclose(found, ours, atol=1e-6)
            widths.add(bits)
    assert widths == {4, 8}
