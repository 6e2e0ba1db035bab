"""What mlx-lm's class makes of each model type: its modules by name, in the class's own order.

One table, for where mlx-lm is not installed. `tests/workers/outline` builds a model of every type
with mlx-lm's own class and compares inventories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

__all__ = ["FAMILIES", "Family", "Head", "Windows"]


class Head(Enum):
    """Whether the head is the embedding."""

    BY_FLAG = auto()
    ALWAYS_TIED = auto()
    AS_STORED = auto()


class Windows(Enum):
    """Which layers keep the last tokens alone."""

    NEVER = auto()
    BY_LAYER_TYPES = auto()
    ALL_BUT_EACH_FOURTH = auto()
    """The same where `layer_types` are stated, else three of four layers."""
    BY_PATTERN = auto()
    """All but every n-th layer; n is `sliding_window_pattern`, or told by `layer_types`."""


@dataclass(frozen=True, slots=True)
class Family:
    """Model types with the same modules.

    `layers` are the kinds of layers, each by the names of its parts in order: those whose weight is
    a matrix are modules, the others arrays that are stored as they are. `experts` says which part
    of a stack the files' name of an expert's projection is. `floors` are the bits that the class
    asks for, by how a path ends. `window` is the class's default.
    """

    layers: tuple[tuple[str, ...], ...]
    biased: tuple[str, ...] = ()
    head: Head = Head.BY_FLAG
    windows: Windows = Windows.NEVER
    window: int = 0
    pattern: int = 0
    experts: Mapping[str, str] = field(default_factory=dict)
    floors: Mapping[str, int] = field(default_factory=dict)


_QKV: Final = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_ATTENTION: Final = (*_QKV, "self_attn.o_proj")
_QK_NORMS: Final = ("self_attn.q_norm", "self_attn.k_norm")
_MLP: Final = ("mlp.gate_proj", "mlp.down_proj", "mlp.up_proj")
_NORMS: Final = ("input_layernorm", "post_attention_layernorm")
_FEEDFORWARD_NORMS: Final = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
_OWN_NAMES: Final = {name: name for name in ("gate_proj", "up_proj", "down_proj")}
_MIXTRAL_NAMES: Final = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


def _stack(block: str) -> tuple[str, ...]:
    """Return the router of a mixture of experts and its stacked projections."""
    return (f"{block}.gate", *(f"{block}.switch_mlp.{name}" for name in _OWN_NAMES))


_SHARED: Final = (
    *(f"mlp.shared_expert.{name}" for name in ("gate_proj", "down_proj", "up_proj")),
    "mlp.shared_expert_gate",
)
_LLAMA: Final = (*_ATTENTION, *_MLP, *_NORMS)
_OLMO: Final = (*_ATTENTION, *_QK_NORMS, *_MLP, _NORMS[1], _FEEDFORWARD_NORMS[1])
_UP_FIRST: Final = (*_ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_STARCODER: Final = (*_ATTENTION, "mlp.c_fc", "mlp.c_proj", *_NORMS)

_LLAMA_FAMILY: Final = Family((_LLAMA,), (*_ATTENTION, *_MLP), windows=Windows.BY_LAYER_TYPES)

FAMILIES: Final[Mapping[str, Family]] = {
    "llama": _LLAMA_FAMILY,
    "mistral": _LLAMA_FAMILY,
    "smollm3": Family((_LLAMA,), (*_ATTENTION, *_MLP)),
    "granite": Family(
        (_LLAMA,),
        (*_ATTENTION, *_MLP),
        floors={"self_attn.o_proj": 8, "mlp.down_proj": 8, "lm_head": 8},
    ),
    "ernie4_5": Family((_LLAMA,), (*_ATTENTION, *_MLP)),
    "mimo": Family((_LLAMA,), _QKV),
    "qwen2": Family((_LLAMA,), _QKV),
    "qwen3": Family(((*_ATTENTION, *_QK_NORMS, *_MLP, *_NORMS),)),
    "qwen2_moe": Family(
        ((*_ATTENTION, *_stack("mlp"), *_SHARED, *_NORMS),), _QKV, experts=_OWN_NAMES
    ),
    "qwen3_moe": Family(
        (
            (*_ATTENTION, *_QK_NORMS, *_NORMS, *_stack("mlp")),
            (*_ATTENTION, *_QK_NORMS, *_NORMS, *_MLP),
        ),
        experts=_OWN_NAMES,
        floors={"mlp.gate": 8},
    ),
    "mixtral": Family(
        ((*_ATTENTION, *_stack("block_sparse_moe"), *_NORMS),), experts=_MIXTRAL_NAMES
    ),
    "olmo2": Family((_OLMO,), (*_ATTENTION, *_MLP)),
    "olmo3": Family((_OLMO,), _ATTENTION, windows=Windows.ALL_BUT_EACH_FOURTH),
    "olmoe": Family(
        ((*_ATTENTION, *_QK_NORMS, *_stack("mlp"), *_NORMS),), _ATTENTION, experts=_OWN_NAMES
    ),
    "gemma": Family((_LLAMA,), head=Head.ALWAYS_TIED),
    "gemma2": Family(
        ((*_ATTENTION, *_MLP, _NORMS[0], *_FEEDFORWARD_NORMS, _NORMS[1]),), head=Head.ALWAYS_TIED
    ),
    "gemma3_text": Family(
        ((*_ATTENTION, *_QK_NORMS, *_MLP, *_NORMS, *_FEEDFORWARD_NORMS),),
        head=Head.AS_STORED,
        windows=Windows.BY_PATTERN,
        window=512,
        pattern=6,
    ),
    "phi3": Family(
        (("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj", *_NORMS),)
    ),
    "cohere": Family(((*_UP_FIRST, _NORMS[0]),), _ATTENTION, head=Head.ALWAYS_TIED),
    "helium": Family(((*_UP_FIRST, *_NORMS),), (*_QKV, *_MLP)),
    "starcoder2": Family((_STARCODER,), (*_STARCODER, "model.norm")),
}
