"""What a model is made of: modules that can be quantized, and arrays stored as they are."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats import KEEP, STOCK_FORMATS, Format

__all__ = [
    "Architecture",
    "CacheKind",
    "CacheLayer",
    "Inventory",
    "Module",
    "ModuleKind",
    "StoredArray",
]


class ModuleKind(StrEnum):
    """The mlx-lm class a module belongs to."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    SWITCH_LINEAR = "switch_linear"
    MULTI_LINEAR = "multi_linear"


@dataclass(frozen=True, slots=True)
class Module:
    """A module with a weight that can be quantized, named by its mlx path.

    `shape` is (out, in), (experts, out, in) for stacked experts, or (heads, out, in) for a linear
    layer per head (`multi_linear`, of latent attention). `decision_group` names the
    modules that must share one format (by default the module alone). `experts_per_token` is 0 for
    a module that every token uses whole. `is_tied_head` marks an embedding that is also the head.
    `quantizable` is what the model's own `quant_predicate` allows, `floor_bits` what it asks for
    (Qwen3-MoE keeps its router at 8 bits); 0 means no wish.
    """

    path: str
    kind: ModuleKind
    shape: tuple[int, ...]
    dtype: Dtype
    decision_group: str
    layer: int | None = None
    experts_per_token: int = 0
    is_tied_head: bool = False
    quantizable: bool = True
    floor_bits: int = 0

    @property
    def role(self) -> str:
        """The last part of the path, `down_proj`."""
        return self.path.rsplit(".", 1)[-1]

    @property
    def weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def in_features(self) -> int:
        """Width along which groups are cut."""
        return self.shape[-1]

    def legal_formats(self, candidates: tuple[Format, ...] = STOCK_FORMATS) -> tuple[Format, ...]:
        """Return the candidates this module can be stored in; `keep` is always one of them."""
        if not self.quantizable:
            return (KEEP,)
        legal = tuple(
            format_
            for format_ in candidates
            if format_ != KEEP
            and format_.bits >= self.floor_bits
            and format_.is_legal(self.in_features, self.dtype)
        )
        return (*legal, KEEP)


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array as a checkpoint stores it, named as mlx-lm loads it."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * self.dtype.itemsize


class CacheKind(StrEnum):
    """How a layer's cache grows with the context."""

    FULL = "full"
    SLIDING = "sliding"
    LATENT = "latent"
    STATE = "state"


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """The cache of one layer, read off the model's own `make_cache` objects.

    `elements_per_token` counts keys and values together, `bytes_per_token` them in the types that
    the model's forward pass gives them (0: not known). `window` bounds the tokens kept (0: none).
    `head_width` is that of a key, which KV quantization groups along, `value_width` that of a
    value. `constant_bytes` is what a linear attention or state-space layer holds whatever the
    context.
    """

    layer: int
    kind: CacheKind
    elements_per_token: int = 0
    bytes_per_token: int = 0
    head_width: int = 0
    window: int = 0
    constant_bytes: int = 0
    value_width: int = 0


@dataclass(frozen=True, slots=True)
class Architecture:
    """The dimensions that memory and speed depend on."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    vocabulary_size: int
    layers: int
    attention_heads: int
    max_context: int
    cache: tuple[CacheLayer, ...] = ()
    experts: int = 0
    experts_per_token: int = 0


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything a checkpoint of the model will hold, in the order it is written.

    `notes` say what of the model's files it will not hold; `config` has the settings of config.json
    that differ from the source's, such as `rope_theta` for transformers 5's `rope_parameters`.
    """

    architecture: Architecture
    modules: tuple[Module, ...]
    passthrough: tuple[StoredArray, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)
    config: JsonObject = field(default_factory=dict, compare=False)

    @property
    def weights(self) -> int:
        """Number of weights in modules."""
        return sum(module.weights for module in self.modules)

    def module(self, path: str) -> Module:
        """Return the module at `path`; KeyError when there is none."""
        for module in self.modules:
            if module.path == path:
                return module
        raise KeyError(path)

    def decision_groups(self) -> dict[str, tuple[Module, ...]]:
        """Return the modules of each decision group, in inventory order."""
        groups: dict[str, list[Module]] = {}
        for module in self.modules:
            groups.setdefault(module.decision_group, []).append(module)
        return {name: tuple(members) for name, members in groups.items()}
