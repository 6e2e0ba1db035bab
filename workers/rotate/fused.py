"""Rotations whose transform runs in the kernels: signs and scales folded, `B` left for run time.

`W n = (W S B / 8) (B S n / 4)`, since B B = 32: the quarter and the signs S go into what makes the
activation n, so that both foldings are exact powers of two. The norms take them in their scale, a
gated feed-forward in the rows of up_proj, attention in the rows of its values (they pass through
the softmax average and through gates), linear attention in its gated norm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import mlx.core as mx
from mlx import nn
from mlx_lm.models.switch_layers import SwiGLU

from bitbudget.app.core.canonical import JsonObject
from bitbudget.metal_kernels.blocks import BLOCK, butterfly
from bitbudget.rotated_model import VERSION, spec_digest
from bitbudget.workers.rotate.structure import Attention, FeedForward, Layer, Structure
from bitbudget.workers.rotate.transform import Edit, Edits, random_signs

__all__ = ["fuse"]

_BEFORE: Final = 4
_BEHIND: Final = 8
Weights = Mapping[str, mx.array]


def _reader(signs: mx.array) -> Edit:
    return lambda weight: butterfly(weight * signs) / _BEHIND


def _scale(signs: mx.array) -> Edit:
    return lambda vector: vector * signs / _BEFORE


def _scale_rows(signs: mx.array) -> Edit:
    return lambda weight: weight * signs[:, None] / _BEFORE


def _last(edit: Edit, count: int, axis: int) -> Edit:
    def part(array: mx.array) -> mx.array:
        if array.shape[axis] == count:
            return edit(array)
        kept, edited = mx.split(array, [array.shape[axis] - count], axis=axis)
        return mx.concatenate([kept, edit(edited)], axis=axis)

    return part


@dataclass
class _Fusion:
    model: nn.Module
    weights: Weights
    edits: Edits
    seed: int
    norms: list[str] = field(default_factory=list)
    gated: dict[str, str] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def norm(self, path: str, readers: tuple[str, ...], offset: float) -> None:
        """Rotate what the norm at `path` gives to `readers`; `offset` is Gemma's 1 + weight."""
        signs = random_signs(self.weights[f"{path}.weight"].size, self.seed, path)
        scale = _scale(signs)
        self.edits.add(f"{path}.weight", lambda weight: scale(weight + offset))
        for reader in readers:
            self.edits.add(f"{reader}.weight", _reader(signs))
        self.norms.append(path)

    def feed_forward(self, part: FeedForward, activation: str | None) -> None:
        """Rotate the input of down_proj where the rows of up_proj can take the signs."""
        if part.width % BLOCK:
            self.left_out["down_proj: 32 does not divide its width"] += 1
            return
        if part.up is None or activation is None:
            self.left_out["down_proj: its input is not silu or tanh-gelu of gate, times up"] += 1
            return
        signs = random_signs(part.width, self.seed, part.path)
        self._scale_last(part.up, signs)
        self.edits.add(f"{part.down}.weight", _reader(signs))
        self.gated[part.path] = activation

    def _scale_last(self, path: str, signs: mx.array) -> None:
        """Scale as many of the last rows of the matrix at `path` as there are signs."""
        self.edits.add(f"{path}.weight", _last(_scale_rows(signs), signs.size, axis=-2))
        if f"{path}.bias" in self.weights:
            self.edits.add(f"{path}.bias", _last(_scale(signs), signs.size, axis=-1))

    def attention(self, attention: Attention) -> None:
        """Rotate the input of o_proj, by a prologue of its product."""
        width = attention.head_width
        if attention.values is None and attention.value_norm is None:
            self.left_out["o_proj: no matrix of values before it"] += 1
            return
        if width == 0 or width % BLOCK or attention.kv_heads == 0:
            self.left_out["o_proj: 32 does not divide the width of a head"] += 1
            return
        signs = random_signs(width, self.seed, attention.path)
        if attention.value_norm is not None:
            self.edits.add(f"{attention.value_norm}.weight", _scale(signs))
        elif attention.values is not None:
            self._scale_last(attention.values, mx.tile(signs, attention.kv_heads))
        heads = self.weights[f"{attention.writer}.weight"].shape[-1] // width
        self.edits.add(f"{attention.writer}.weight", _reader(mx.tile(signs, heads)))
        self.inputs.append(attention.writer)

    def spec(self) -> JsonObject:
        """Return what config.json says."""
        found: JsonObject = {
            "version": VERSION,
            "seed": self.seed,
            "norms": self.norms,
            "gated": self.gated,
            "inputs": self.inputs,
            "layers": self.layers,
        }
        return found | {"digest": spec_digest(found)}


def fuse(
    edits: Edits, structure: Structure, model: nn.Module, weights: Weights, seed: int
) -> tuple[JsonObject, Counter[str]]:
    """Add every fused site of `model` to `edits`.

    Return the rotation for config.json, and why how many sites are left as they are.
    """
    fusion = _Fusion(model, weights, edits, seed)
    modules = dict(model.named_modules())
    for layer in structure.layers:
        _fuse_layer(fusion, layer, modules, structure)
    return fusion.spec(), fusion.left_out


def _fuse_layer(
    fusion: _Fusion, layer: Layer, modules: Mapping[str, Any], structure: Structure
) -> None:
    for norm, readers in (
        (layer.attention_norm, layer.attention.readers),
        (layer.feed_forward_norm, layer.feed_forward_readers),
    ):
        fusion.norm(norm, readers, structure.offsets[norm])
    if structure.shares_values:
        fusion.left_out["o_proj: layers share their values"] += 1
    else:
        fusion.attention(layer.attention)
    if _is_plain(modules[layer.path]):
        fusion.layers.append(layer.path)
    for part in layer.feed_forwards:
        fusion.feed_forward(part, _activation(modules[part.path]))


def _is_plain(layer: Any) -> bool:
    """Whether the layer is `h = x + mixer(norm(x)); h + mlp(norm(h))`: found out by calling it."""
    x = mx.random.normal((1, 4), key=mx.random.key(0))
    try:
        out = type(layer).__call__(_LayerProbe(), x, None, None)
    except (AttributeError, TypeError):
        return False
    return bool(mx.allclose(out, 36 * (7 * x + 1), rtol=1e-5, atol=1e-5).item())


class _LayerProbe:
    """A decoder layer whose parts are multiplications."""

    is_linear = False
    input_layernorm = staticmethod(lambda x: 2 * x)
    self_attn = staticmethod(lambda x, _mask=None, _cache=None: 3 * x + 1)
    post_attention_layernorm = staticmethod(lambda x: 5 * x)
    mlp = staticmethod(lambda x: 7 * x)


def _activation(module: Any) -> str | None:
    """Return which activation the feed-forward class has, found out on a tiny twin of it."""
    if "activation" in module:
        return "silu" if type(module.activation) is SwiGLU else None
    if "gate_up_proj" not in module and not ("gate_proj" in module and "up_proj" in module):
        return None
    x = mx.random.normal((4, BLOCK), key=mx.random.key(0))
    try:
        out = _Probe(module)(x)
    except (AttributeError, TypeError):
        return None
    kinds: dict[str, Callable[[mx.array], mx.array]] = {
        "silu": nn.silu,
        "gelu_tanh": nn.gelu_approx,
    }
    for name, kind in kinds.items():
        if bool(mx.allclose(out, kind(x) * (x + 1), rtol=1e-4, atol=1e-5).item()):
            return name
    return None


class _Probe:
    """Calls a feed-forward class with gate(x) = x, up(x) = x + 1, down(x) = x."""

    def __init__(self, module: Any) -> None:
        self._call = type(module).__call__

    gate_up_proj = staticmethod(lambda x: mx.concatenate([x, x + 1], axis=-1))

    gate_proj = staticmethod(lambda x: x)
    up_proj = staticmethod(lambda x: x + 1)
    down_proj = staticmethod(lambda x: x)

    def __call__(self, x: mx.array) -> mx.array:
        result: mx.array = self._call(self, x)
        return result
