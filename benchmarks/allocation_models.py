"""A 30B model as headers alone, and a measurement of its shape with synthetic curves."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np

from bitbudget.app.core.formats import ALL_FORMATS, KEEP
from bitbudget.app.core.measurement import (
    KEEP_POINT,
    Curve,
    CurvePoint,
    Encoder,
    Measurement,
    ModelIdentity,
    Sensitivity,
)
from bitbudget.workers.models import build_inventory, open_checkpoint

__all__ = ["headers_30b", "measured"]

_HIDDEN: Final = 2048
_LAYERS: Final = 48
_EXPERTS: Final = 128
_EXPERT_WIDTH: Final = 768
_VOCABULARY: Final = 151_936
_SHARDS: Final = 16
_CONFIG: Final[dict[str, Any]] = {
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": _HIDDEN,
    "num_hidden_layers": _LAYERS,
    "intermediate_size": 6144,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": _EXPERTS,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": _EXPERT_WIDTH,
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "vocab_size": _VOCABULARY,
    "tie_word_embeddings": False,
    "max_position_embeddings": 40_960,
    "torch_dtype": "bfloat16",
}


def headers_30b(folder: Path) -> Path:
    """Write the shape of Qwen3-30B-A3B: 18,867 tensors in sparse files that hold headers alone."""
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    shapes = _shapes()
    names = list(shapes)
    size = -(-len(names) // _SHARDS)
    index: dict[str, str] = {}
    for shard in range(_SHARDS):
        file = f"model-{shard + 1:05d}-of-{_SHARDS:05d}.safetensors"
        mine = names[shard * size : (shard + 1) * size]
        _write_header(folder / file, {name: shapes[name] for name in mine})
        index |= dict.fromkeys(mine, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (_VOCABULARY, _HIDDEN),
        "lm_head.weight": (_VOCABULARY, _HIDDEN),
        "model.norm.weight": (_HIDDEN,),
    }
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}."
        own = {
            "self_attn.q_proj": (4096, _HIDDEN),
            "self_attn.k_proj": (512, _HIDDEN),
            "self_attn.v_proj": (512, _HIDDEN),
            "self_attn.o_proj": (_HIDDEN, 4096),
            "self_attn.q_norm": (128,),
            "self_attn.k_norm": (128,),
            "input_layernorm": (_HIDDEN,),
            "post_attention_layernorm": (_HIDDEN,),
            "mlp.gate": (_EXPERTS, _HIDDEN),
        }
        for expert in range(_EXPERTS):
            own[f"mlp.experts.{expert}.gate_proj"] = (_EXPERT_WIDTH, _HIDDEN)
            own[f"mlp.experts.{expert}.up_proj"] = (_EXPERT_WIDTH, _HIDDEN)
            own[f"mlp.experts.{expert}.down_proj"] = (_HIDDEN, _EXPERT_WIDTH)
        shapes |= {f"{prefix}{name}.weight": shape for name, shape in own.items()}
    return shapes


def _write_header(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    header, offset = {}, 0
    for name, shape in shapes.items():
        stop = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)


def measured(folder: Path, seed: int = 0) -> Measurement:
    """Return a measurement of the model's own inventory: Gaussian errors, random sensitivities."""
    inventory = build_inventory(open_checkpoint(folder))
    random = np.random.default_rng(seed)
    curves = []
    for module in inventory.modules:
        alpha = module.weights * 4e-12 * float(np.exp(1.5 * random.standard_normal()))
        points = []
        for format_ in module.legal_formats(ALL_FORMATS):
            noise = float(np.exp(0.1 * random.standard_normal()))
            t2 = 1.5 * 4.0**-format_.bits * (1 + format_.group_size / 256) * noise
            is_kept = format_ == KEEP
            points.append(KEEP_POINT if is_kept else CurvePoint(format_, t2, alpha * t2))
        curves.append(Curve(module.path, alpha, tuple(points)))
    identity = ModelIdentity("qwen3-30b-a3b", "synthetic", "0" * 64)
    encoder, sensitivity = Encoder.CAREFUL, Sensitivity.FISHER
    return Measurement(identity, inventory, encoder, sensitivity, tuple(curves))
