"""The dimensions of a model that memory and speed depend on, from config.json and its modules."""

from __future__ import annotations

from collections.abc import Sequence

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.inventory import Architecture, CacheLayer, Module, ModuleKind
from bitbudget.workers.files.language_part import language_config

__all__ = ["architecture_of", "number", "stated_layers"]


def architecture_of(
    config: JsonObject, modules: Sequence[Module], layers: int, cache: tuple[CacheLayer, ...]
) -> Architecture:
    """Return the dimensions of a model of these modules; 0 for what nothing tells."""
    stated = language_config(config)
    embedding = next((m for m in modules if m.kind is ModuleKind.EMBEDDING), None)
    stacked = [m for m in modules if m.kind is ModuleKind.SWITCH_LINEAR]
    return Architecture(
        model_type=config["model_type"],
        hidden_size=number(stated, "hidden_size", "n_embd", "d_model", "dim")
        or (embedding.in_features if embedding else 0),
        intermediate_size=number(stated, "intermediate_size", "n_inner", "ffn_dim", "hidden_dim"),
        vocabulary_size=embedding.shape[0] if embedding else number(stated, "vocab_size"),
        layers=layers,
        attention_heads=number(stated, "num_attention_heads", "n_head", "n_heads"),
        max_context=number(
            stated, "max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx"
        ),
        cache=cache,
        experts=max((m.shape[0] for m in stacked), default=0),
        experts_per_token=max((m.experts_per_token for m in stacked), default=0),
    )


def stated_layers(config: JsonObject) -> int:
    """Return the number of layers that the configuration states, 0 when it states none."""
    return number(language_config(config), "num_hidden_layers", "n_layer", "n_layers")


def number(config: JsonObject, *names: str) -> int:
    """Return the first of these that is a whole number, 0 when none is."""
    values = (config.get(name) for name in names)
    return next((value for value in values if type(value) is int), 0)
