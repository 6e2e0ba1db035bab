"""Decision groups of a runtime: modules whose arrays it joins must have the same format."""

from __future__ import annotations

from typing import Final

from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.runtime import Runtime

__all__ = ["decision_groups_for"]

_JOINED: Final = (
    frozenset({"q_proj", "k_proj", "v_proj", "g_proj"}),
    frozenset({"up_proj", "gate_proj"}),
    frozenset({"in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "in_proj_qkvz", "in_proj_ba"}),
)
"""Roles that lalamo 0.17 concatenates (`model_import/loaders/huggingface.py`): inputs of attention,
of a feed-forward network, and of a gated delta network."""


def decision_groups_for(inventory: Inventory, runtime: Runtime) -> dict[str, tuple[Module, ...]]:
    """Return the modules of each decision group, those that `runtime` joins as one.

    A joined group has the name of its first.
    """
    groups = inventory.decision_groups()
    if runtime is not Runtime.UZU:
        return groups
    names = {name: name for name in groups}
    first: dict[tuple[str, int], str] = {}
    for name, members in groups.items():
        for module in members:
            joint = _joint(module)
            if joint is not None:
                _join(names, first.setdefault(joint, name), name)
    found: dict[str, tuple[Module, ...]] = {}
    for name, members in groups.items():
        root = _root(names, name)
        found[root] = (*found.get(root, ()), *members)
    return found


def _joint(module: Module) -> tuple[str, int] | None:
    """Return the parent of a module and which of `_JOINED` it belongs to; None for none."""
    parent = module.path.rpartition(".")[0]
    return next(((parent, i) for i, roles in enumerate(_JOINED) if module.role in roles), None)


def _root(names: dict[str, str], name: str) -> str:
    while names[name] != name:
        name = names[name]
    return name


def _join(names: dict[str, str], one: str, other: str) -> None:
    one, other = _root(names, one), _root(names, other)
    order = list(names)
    low, high = sorted((one, other), key=order.index)
    names[high] = low
