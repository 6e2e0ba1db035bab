"""The frontier of a measured model in the pages' own words."""

from __future__ import annotations

from bitbudget.app.core.frontier import Frontier
from bitbudget.app.dashboard.figures.frontier import Point
from bitbudget.app.dashboard.pages.answer import Trade

__all__ = ["trade_of"]


def trade_of(found: Frontier) -> Trade:
    """Return the breakpoints and the points of uniform formats and known recipes."""
    line = tuple(Point("", p.file_bytes, p.kl_nats_per_token) for p in found.breakpoints)
    marked = (*found.uniform, *found.recipes)
    return Trade(line, tuple(Point(p.name, p.file_bytes, p.kl_nats_per_token) for p in marked))
