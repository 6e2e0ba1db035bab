"""The table of docs/models.md says of each packed layout what the program says and does."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import AlreadyQuantizedError
from bitbudget.workers.files.layouts import GGUF, LAYOUTS, PLAIN_FLOAT8, SCALED_FLOAT8, Layout
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.streaming.decode import float8_table
from tests.workers.models.fp8 import write_llama_shaped
from tests.workers.models.tiny import stored_weights, write_tiny

DOCUMENT = Path(__file__).parents[3] / "docs" / "models.md"
ALL = (*LAYOUTS, SCALED_FLOAT8, PLAIN_FLOAT8, GGUF)


def row(layout: Layout) -> str:
    known = f"`{layout.known_by}`" if layout.known_by else "E4M3, E5M2"
    used = "decoded and used, told" if layout.coding else "refused"
    return f"| {known} | {layout.found} | {layout.remedy} | {used} |"


def test_the_table_is_the_programs() -> None:
    text = DOCUMENT.read_text()
    for layout in ALL:
        sentence = str(layout.refusal("TENSOR"))
        frame = sentence.replace(layout.remedy, "WHAT TO DO").replace(layout.found, "FOUND")
        assert f'"{frame}"' in text.replace("\n", " ")
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| known by | FOUND")) + 2
    assert lines[start : lines.index("", start)] == [row(layout) for layout in ALL]


@pytest.mark.parametrize("model_type", ["smollm3", "llama", "mistral"])
def test_blocks_of_8_bit_floats(model_type: str, tmp_path: Path) -> None:
    folder = write_llama_shaped(tmp_path, model_type, block_scaled=True)
    with pytest.raises(AlreadyQuantizedError, match="--allow-quantized-source"):
        build_inventory(open_checkpoint(folder))
    checkpoint = open_checkpoint(folder, allow_quantized_source=True)
    assert {m.dtype for m in build_inventory(checkpoint).modules} == {Dtype.BF16}
    raw = mx.load(str(folder / "model.safetensors"))
    assert isinstance(raw, dict)
    path = "model.layers.1.mlp.down_proj"
    codes, scale = np.array(raw[f"{path}.weight"]), np.array(raw[f"{path}.weight_scale_inv"])
    assert scale.ndim == 2
    block = np.kron(scale, np.ones((128, 128)))[: codes.shape[0], : codes.shape[1]]
    values = float8_table(Dtype.F8_E4M3)[codes] * block
    found = np.array(checkpoint.weights()[f"{path}.weight"].astype(mx.float32))
    assert np.allclose(found, values, rtol=2**-8)


def test_gpt_oss_as_published_and_as_transformers_saves_it_in_bf16(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "m", "gpt_oss", intermediate_size=64, tie_word_embeddings=False)
    plain = stored_weights(folder)
    published, saved = dict(plain), dict(plain)
    for layer in range(2):
        path = f"model.layers.{layer}.mlp.experts"
        halves = [plain[f"{path}.{half}_proj.weight"] for half in ("gate", "up")]
        fused = mx.stack(halves, axis=2).flatten(1, 2)
        biases = [plain[f"{path}.{half}_proj.bias"] for half in ("gate", "up")]
        stored = {"gate_up_proj": fused, "down_proj": plain[f"{path}.down_proj.weight"]}
        for weights in (published, saved):
            for name in [name for name in weights if name.startswith(path)]:
                del weights[name]
            weights[f"{path}.gate_up_proj_bias"] = mx.stack(biases, axis=2).flatten(1, 2)
            weights[f"{path}.down_proj_bias"] = plain[f"{path}.down_proj.bias"]
        for name, array in stored.items():
            codes, scales, *_ = mx.quantize(array, group_size=32, bits=4, mode="mxfp4")
            blocks = codes.view(mx.uint8).reshape(*array.shape[:2], -1, 16)
            published |= {f"{path}.{name}_blocks": blocks, f"{path}.{name}_scales": scales}
            dense = mx.dequantize(codes, scales, group_size=32, bits=4, mode="mxfp4")
            saved[f"{path}.{name}"] = mx.contiguous(dense.swapaxes(-1, -2))
    mx.save_safetensors(str(folder / "model.safetensors"), saved)
    dense_model = open_checkpoint(folder)
    assert build_inventory(dense_model).modules
    (tmp_path / "published").mkdir()
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (tmp_path / "published" / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(tmp_path / "published" / "model.safetensors"), published)
    with pytest.raises(AlreadyQuantizedError, match="packed as MXFP4 blocks"):
        open_checkpoint(tmp_path / "published")
    decoded = open_checkpoint(tmp_path / "published", allow_quantized_source=True)
    expected, found = dense_model.weights(), decoded.weights()
    assert expected.keys() == found.keys()
    assert all(mx.array_equal(found[name], expected[name]) for name in expected)
    assert mx.array_equal(
        found["model.layers.0.mlp.experts.gate_proj.bias"],
        plain["model.layers.0.mlp.experts.gate_proj.bias"],
    )


@pytest.mark.parametrize("beside", [["config.json"], []])
def test_a_gguf_is_named(beside: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "m"
    write_tiny(folder, "llama")
    (folder / "model.safetensors").rename(folder / "tiny-Q4_K_M.gguf")
    if not beside:
        (folder / "config.json").unlink()
    for place in (folder, folder / "tiny-Q4_K_M.gguf"):
        with pytest.raises(AlreadyQuantizedError, match=r'gguf_file="NAME\.gguf"'):
            open_checkpoint(place, allow_quantized_source=True)
