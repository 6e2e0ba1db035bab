"""Branching on the groups whose step is too large for prices to divide.

At the dual's prices a group with one very large step weighs on both sides of the optimum: the bound
takes a share of the step, which no choice can. Deciding such a group first makes the bound tight
and leads the beam to a choice that fills the limits again (Land and Doig, An automatic method of
solving discrete programming problems, Econometrica 28, 1960).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from bitbudget.app.core.mckp.problem import Integers
from bitbudget.app.core.mckp.result import Limits
from bitbudget.app.core.mckp.rows.lagrangian import ROUNDING, Dual, maximise_dual
from bitbudget.app.core.mckp.rows.repair import Reduced, best_feasible
from bitbudget.app.core.mckp.rows.system import System

__all__ = ["Node", "branch"]

_LARGE: Final = 0.5
"""Share of the gap that a step must be worth to be branched on."""


@dataclass(slots=True)
class Node:
    """A system in which the options in `fixed` are decided, with its bound."""

    system: System
    dual: Dual
    bound: float
    fixed: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class _Tree:
    """The incumbent, the nodes still open, and the least bound of those that are not."""

    limits: Limits
    best: Integers
    objective: float
    open: list[Node]
    most_nodes: int
    closed: float = np.inf
    nodes: int = 0

    @property
    def enough(self) -> float:
        """A bound from which a node need not be looked into."""
        return self.objective * (1 - self.limits.relative_gap)

    @property
    def bound(self) -> float:
        """What is proven of every choice."""
        return min(self.objective, self.closed, *(node.bound for node in self.open))

    def is_over(self) -> bool:
        """Whether nothing more may be spent."""
        return self.nodes >= self.most_nodes or self.limits.is_over()

    def close(self, bound: float) -> None:
        """Give up a node that holds nothing below `bound`."""
        self.closed = min(self.closed, bound)


def branch(node: Node, best: Integers, limits: Limits, most_nodes: int) -> tuple[Integers, float]:
    """Return a choice no worse than `best` and a bound no lower than that of `node`, the root.

    `most_nodes` ends the search, a limit that does not depend on the machine.
    """
    system, bound = node.system, node.bound
    tree = _Tree(limits, best, system.cost(best), [node], most_nodes)
    while tree.open and not tree.is_over():
        node = min(tree.open, key=lambda leaf: leaf.bound)
        if node.bound >= tree.enough or tree.closed <= node.bound:
            break
        decided = _decisions(node, tree.objective)
        if decided is None:
            break
        tree.open.remove(node)
        _expand(system, tree, node, decided)
    return tree.best, max(bound, tree.bound)


def _expand(system: System, tree: _Tree, node: Node, decided: list[tuple[int, int, float]]) -> None:
    """Open one node for each option that may beat the incumbent, the most promising first."""
    for group, option, least in sorted(decided, key=lambda choice: choice[2]):
        if least >= tree.enough or tree.is_over():
            tree.close(least)
            continue
        leaf = _fixed(node, group, option, least, tree.limits)
        tree.nodes += 1
        if leaf is None:
            continue
        tree.open.append(leaf)
        if leaf.bound >= tree.enough:
            continue
        found = _search(leaf, tree.limits)
        if found is not None and system.is_feasible(found):
            objective = system.cost(found)
            if objective < tree.objective:
                tree.best, tree.objective = found, objective


def _decisions(node: Node, objective: float) -> list[tuple[int, int, float]] | None:
    """Return the group of the largest step and its options that may still beat the incumbent.

    Each comes with its bound: what is left out costs `objective` at least, rounding of the reduced
    costs allowed for. None when no step is large.
    """
    system, reduced = node.system, Reduced.of(node.system, node.dual)
    margin = ROUNDING * (objective + float(reduced.prices @ system.limits))
    gap = objective - node.bound
    useful = reduced.penalty <= objective - reduced.bound + margin
    moved = np.abs(system.weights - system.weights[:, node.dual.choice[reduced.group]])
    worth = np.where(useful, (reduced.prices[:, None] * moved).max(axis=0), 0.0)
    step = np.maximum.reduceat(worth, system.problem.offsets[:-1])
    step[[group for group, _ in node.fixed]] = 0.0
    group = int(np.argmax(step))
    if step[group] < _LARGE * gap:
        return None
    options = np.arange(*system.problem.offsets[group : group + 2])
    options = options[useful[options]]
    return [
        (
            group,
            int(option),
            max(node.bound, reduced.bound + float(reduced.penalty[option]) - margin),
        )
        for option in options
    ]


def _fixed(node: Node, group: int, option: int, least: float, limits: Limits) -> Node | None:
    """Decide one group: all of its options become that one. None when nothing is feasible then."""
    problem = node.system.problem
    inside = slice(*problem.offsets[group : group + 2].tolist())
    costs, weights = problem.costs.copy(), node.system.weights.copy()
    costs[inside] = costs[option]
    weights[:, inside] = weights[:, [option]]
    rows = tuple(
        replace(row, weights=weight) for row, weight in zip(problem.rows, weights[1:], strict=True)
    )
    changed = replace(problem, bytes=weights[0], costs=costs, rows=rows)
    system = replace(node.system, problem=changed, weights=weights)
    dual = maximise_dual(system, node.dual.prices, limits, node.dual.tried)
    if dual.is_contradiction:
        return None
    return Node(system, dual, max(least, dual.bound), [*node.fixed, (group, option)])


def _search(node: Node, limits: Limits) -> Integers | None:
    found = best_feasible(node.system, node.dual, Reduced.of(node.system, node.dual), limits)
    if found is None:
        return None
    found = found.copy()
    for group, option in node.fixed:
        found[group] = option
    return found
