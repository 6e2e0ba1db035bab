"""Where a model can be rotated, read off its modules: who reads an activation and who writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import mlx.core as mx
from mlx import nn

from bitbudget.app.core.errors import UnsupportedModelError

__all__ = ["Attention", "FeedForward", "Layer", "Structure", "read_structure", "refuse"]

_READERS: Final = frozenset(
    {
        *("q_proj", "k_proj", "v_proj", "qkv_proj", "in_proj_qkv", "in_proj_z", "in_proj_b"),
        *("in_proj_a", "in_proj_qkvz", "in_proj_ba", "gate_proj", "up_proj", "gate_up_proj"),
        *("gate", "router", "shared_expert_gate"),
        *("q_a_proj", "kv_a_proj_with_mqa", "indexer.wk", "indexer.weights_proj"),
    }
)
_WRITERS: Final = frozenset({"o_proj", "out_proj", "down_proj"})
_WITHIN: Final = frozenset({"q_b_proj", "kv_b_proj", "embed_q", "unembed_out", "indexer.wq_b"})
"""Matrices of latent attention that stand between others and never see the residual stream."""
_MIXERS: Final = ("self_attn", "linear_attn")
_FEED_FORWARDS: Final = ("mlp", "block_sparse_moe")
_FIRST_NORM: Final = "input_layernorm"
_SECOND_NORMS: Final = (
    "pre_feedforward_layernorm",
    "pre_mlp_layernorm",
    "post_attention_layernorm",
)
"""What the norm before the feed-forward is called; the first that a layer has is it."""


def refuse(model_type: str, reason: str, remedy: str) -> UnsupportedModelError:
    """Return the error that says why a model is not rotated and what is offered instead."""
    return UnsupportedModelError(
        model_type=model_type, reason=f"no rotation: {reason}", remedy=remedy
    )


@dataclass(frozen=True)
class Attention:
    """A token mixer: the paths that read its input, the path that writes its output.

    `values` is the path whose rows are the values (`v_proj`, or the last rows of `qkv_proj`);
    `value_norm` the gated norm of a linear attention. Heads and widths are 0 where unknown.
    """

    path: str
    readers: tuple[str, ...]
    writer: str
    values: str | None
    value_norm: str | None
    kv_heads: int
    heads: int
    head_width: int
    is_gated: bool


@dataclass(frozen=True)
class FeedForward:
    """One gated feed-forward part; where gate and up are one matrix, `up` is its last rows."""

    path: str
    up: str | None
    down: str
    width: int


@dataclass(frozen=True)
class Layer:
    """One decoder layer. `feed_forward_readers` read `feed_forward_norm`, routers included.

    `other_norms` are as wide as the residual stream, `other_matrices` outside of the two blocks.
    """

    path: str
    attention_norm: str
    feed_forward_norm: str
    attention: Attention
    feed_forward_readers: tuple[str, ...]
    feed_forward_writers: tuple[str, ...]
    feed_forwards: tuple[FeedForward, ...]
    other_norms: tuple[str, ...]
    other_matrices: tuple[str, ...]


@dataclass(frozen=True)
class Structure:
    """The sites of a model; `offsets` is what each norm adds to its weight, 1 in Gemma's."""

    model_type: str
    hidden_size: int
    embedding: str
    final_norm: str
    head: str | None
    layers: tuple[Layer, ...]
    offsets: Mapping[str, float]

    @property
    def norms(self) -> tuple[str, ...]:
        """The paths of all norms that read the residual stream before a block or the head."""
        pairs = ((layer.attention_norm, layer.feed_forward_norm) for layer in self.layers)
        return (*(path for pair in pairs for path in pair), self.final_norm)

    @property
    def shares_values(self) -> bool:
        """Whether some layers attend to the values of others: then no layer's may be changed."""
        plain = [layer.attention for layer in self.layers if layer.attention.value_norm is None]
        return len({attention.values is None for attention in plain}) > 1


def _find_backbone(model: nn.Module) -> tuple[str, Any] | None:
    for path, module in model.named_modules():
        if all(name in module for name in ("embed_tokens", "layers", "norm")):
            return path, module
    return None


def _find_head(model: nn.Module) -> str | None:
    heads = [path for path, _ in model.named_modules() if path.split(".")[-1] == "lm_head"]
    return heads[0] if heads else None


def _weighted(module: nn.Module) -> list[tuple[str, Any]]:
    return [
        (path, child)
        for path, child in module.named_modules()
        if path and "weight" in child and child["weight"].ndim >= 2  # noqa: PLR2004, a matrix
    ]


def _attribute(module: Any, *names: str) -> int:
    for name in names:
        if isinstance(getattr(module, name, None), int):
            return int(getattr(module, name))
    return 0


def _matrices(
    module: nn.Module, path: str, model_type: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the paths of the matrices that read the module's input and that write its output."""
    readers, writers = [], []
    for name, child in _weighted(module):
        role = name.split(".")[-1]
        if "indexer" in name:
            role = f"indexer.{role}"
        if isinstance(child, nn.Conv1d) or role in _WITHIN:
            continue
        if role in _READERS:
            readers.append(f"{path}.{name}")
        elif role in _WRITERS:
            writers.append(f"{path}.{name}")
        else:
            raise refuse(
                model_type, f"'{path}.{name}' has a role that is not known", "use --rotation none"
            )
    return tuple(readers), tuple(writers)


def _attention(module: Any, path: str, model_type: str) -> Attention:
    readers, writers = _matrices(module, path, model_type)
    if len(writers) != 1:
        raise refuse(model_type, f"'{path}' has {len(writers)} outputs", "use --rotation none")
    inner = module[writers[0].rsplit(".", 1)[1]]["weight"].shape[-1]
    heads = _attribute(module, "n_heads", "num_attention_heads", "num_heads", "num_v_heads")
    kv_heads = _attribute(
        module, "n_kv_heads", "num_key_value_heads", "num_kv_heads", "num_v_heads"
    )
    names = {path.rsplit(".", 1)[1] for path in readers}
    fused = "qkv_proj" in names
    width = inner // heads if heads else 0
    values = "v_proj" if "v_proj" in names else "qkv_proj" if fused else None
    queries = module["q_proj"]["weight"].shape[0] if "q_proj" in names else inner
    norm = "norm" if "norm" in module and "weight" in module["norm"] else None
    return Attention(
        path=path,
        readers=readers,
        writer=writers[0],
        values=f"{path}.{values}" if values else None,
        value_norm=f"{path}.{norm}" if norm else None,
        kv_heads=kv_heads,
        heads=heads,
        head_width=width,
        is_gated=queries != inner or values is None,
    )


def _feed_forwards(module: nn.Module, path: str) -> tuple[FeedForward, ...]:
    parts = []
    for name, child in module.named_modules():
        if "down_proj" not in child:
            continue
        own = f"{path}.{name}" if name else path
        up = next((part for part in ("up_proj", "gate_up_proj") if part in child), None)
        parts.append(
            FeedForward(
                path=own,
                up=f"{own}.{up}" if up else None,
                down=f"{own}.down_proj",
                width=child["down_proj"]["weight"].shape[-1],
            )
        )
    return tuple(parts)


def _child(layer: Any, names: tuple[str, ...], path: str, model_type: str) -> str:
    for name in names:
        if name in layer:
            return name
    raise refuse(model_type, f"'{path}' has none of {names}", "use --rotation none")


def _norms(layer: Any, path: str, model_type: str, hidden_size: int) -> tuple[str, str, list[str]]:
    """Return the names of the norms before the two blocks, and of the others."""
    if _FIRST_NORM in layer:
        norm_offset(layer[_FIRST_NORM], f"{path}.{_FIRST_NORM}", model_type)
    names = [
        name
        for name, child in layer.items()
        if isinstance(child, nn.Module)
        and "weight" in child
        and child["weight"].ndim == 1
        and child["weight"].shape[0] == hidden_size
    ]
    second = next((name for name in _SECOND_NORMS if name in names), _SECOND_NORMS[-1])
    for name in (_FIRST_NORM, second):
        if name not in names:
            raise refuse(
                model_type,
                f"'{path}' has no '{name}': its norms stand behind the blocks, not before",
                "use --rotation none",
            )
    return _FIRST_NORM, second, [name for name in names if name not in {_FIRST_NORM, second}]


def norm_offset(norm: Any, path: str, model_type: str) -> float:
    """Return what an RMS norm adds to its weight, found out by calling it.

    UnsupportedModelError for any other norm: one that takes the mean off or adds a bias does not
    commute with a rotation.
    """
    if "weight" in norm and "bias" not in norm:
        keys = mx.random.split(mx.random.key(0))
        weight = norm["weight"]
        x = mx.random.normal((1, weight.size), key=keys[0]) + 1
        norm["weight"] = probe = mx.random.normal((weight.size,), key=keys[1])
        out = norm(x)
        norm["weight"] = weight
        plain = x * mx.rsqrt(mx.square(x).mean(-1, keepdims=True))
        for offset in (0.0, 1.0):
            if bool(mx.allclose(out, plain * (probe + offset), rtol=1e-2, atol=1e-3).item()):
                return offset
    raise refuse(
        model_type,
        f"'{path}' is a {type(norm).__name__}, not an RMS norm with a scale: what it subtracts or "
        "adds does not commute with a rotation",
        "use --rotation none",
    )


def _layer(layer: Any, path: str, model_type: str, hidden_size: int) -> Layer:
    mixer = _child(layer, _MIXERS, path, model_type)
    feed_forward = _child(layer, _FEED_FORWARDS, path, model_type)
    first, second, others = _norms(layer, path, model_type, hidden_size)
    readers, writers = _matrices(layer[feed_forward], f"{path}.{feed_forward}", model_type)
    return Layer(
        path=path,
        attention_norm=f"{path}.{first}",
        feed_forward_norm=f"{path}.{second}",
        attention=_attention(layer[mixer], f"{path}.{mixer}", model_type),
        feed_forward_readers=readers,
        feed_forward_writers=writers,
        feed_forwards=_feed_forwards(layer[feed_forward], f"{path}.{feed_forward}"),
        other_norms=tuple(f"{path}.{name}" for name in others),
        other_matrices=tuple(
            f"{path}.{name}"
            for name, _ in _weighted(layer)
            if name.split(".")[0] not in {mixer, feed_forward}
        ),
    )


def read_structure(model: nn.Module, model_type: str) -> Structure:
    """Return the sites of `model`; UnsupportedModelError names what is in the way."""
    found = _find_backbone(model)
    if found is None:
        raise refuse(
            model_type, "no embed_tokens, layers and norm side by side", "use --rotation none"
        )
    path, backbone = found
    hidden_size = backbone["embed_tokens"]["weight"].shape[-1]
    if hidden_size % 32:
        raise refuse(
            model_type, f"hidden size {hidden_size} is not a multiple of 32", "use --rotation none"
        )
    prefix = f"{path}." if path else ""
    layers = tuple(
        _layer(layer, f"{prefix}layers.{index}", model_type, hidden_size)
        for index, layer in enumerate(backbone["layers"])
    )
    structure = Structure(
        model_type=model_type,
        hidden_size=hidden_size,
        embedding=f"{prefix}embed_tokens",
        final_norm=f"{prefix}norm",
        head=_find_head(model),
        layers=layers,
        offsets={},
    )
    modules = dict(model.named_modules())
    offsets = {path: norm_offset(modules[path], path, model_type) for path in structure.norms}
    return replace(structure, offsets=offsets)
