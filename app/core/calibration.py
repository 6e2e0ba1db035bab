"""From what the curves of an allocation add up to, to the KL that whole checkpoints measured.

Costs that add up are those of small, quadratic errors. Those of few bits interact, and a router
whose choice flips costs in proportion to the error, not to its square. A correction of single
curves would trade modules wrongly; one of their sum leaves every ranking, and so every optimum, as
it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from pydantic import PositiveFloat

from bitbudget.app.core.errors import InvalidRequestError

__all__ = ["UNCALIBRATED", "Calibration"]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whole checkpoints, by rising sums of their curves' costs, and the KL measured of each.

    Both in nats per token and strictly rising. Between two of them KL is a power of the cost,
    beyond the last ones it is in proportion to it; without any it is the cost itself.
    """

    costs: tuple[PositiveFloat, ...] = ()
    measured: tuple[PositiveFloat, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what does not rise: bounds would not stay bounds."""
        rise = all(a < b for row in (self.costs, self.measured) for a, b in pairwise(row))
        if len(self.costs) != len(self.measured) or not rise:
            raise InvalidRequestError(
                where="calibration",
                found=f"costs {self.costs}, measured {self.measured}",
                expected="as many of both, each rising",
                remedy="measure the model again",
            )

    @classmethod
    def through(cls, checkpoints: Iterable[tuple[float, float]]) -> Calibration:
        """Return the calibration through (cost, measured KL) of checkpoints, in any order.

        Neighbours that measurement noise has in the wrong order count as one in their middle, as
        isotonic regression does (pool adjacent violators, here of logarithms).
        """
        pools: list[tuple[float, float, int]] = []
        for cost, measured in sorted((c, m) for c, m in checkpoints if c > 0 and m > 0):
            pool = (float(np.log(cost)), float(np.log(measured)), 1)
            while pools and (pool[1] <= pools[-1][1] or pool[0] <= pools[-1][0]):
                pool = _pooled(pools.pop(), pool)
            pools.append(pool)
        x, y, _ = zip(*pools, strict=True) if pools else ((), (), ())
        return cls(tuple(np.exp(x).tolist()), tuple(np.exp(y).tolist()))

    def kl(self, cost: float) -> float:
        """Return the KL in nats per token that an allocation of this cost is expected to have."""
        if not self.costs or cost <= 0:
            return cost
        x, y = np.log(self.costs), np.log(self.measured)
        at = float(np.log(cost))
        inside = min(max(at, x[0]), x[-1])
        return float(np.exp(np.interp(inside, x, y) + at - inside))

    def share(self, cost: float) -> float:
        """Return `kl` over `cost`, what each of its parts is multiplied by; 1 of no cost."""
        return self.kl(cost) / cost if cost > 0 else 1.0

    def slope(self, cost: float) -> float:
        """Return the derivative of `kl` at `cost`: nats of KL per nat of cost."""
        power = 1.0
        if self.costs and self.costs[0] <= cost < self.costs[-1]:
            index = int(np.searchsorted(self.costs, cost, side="right"))
            ends = slice(index - 1, index + 1)
            rise = np.diff(np.log([self.costs[ends], self.measured[ends]]))[:, 0]
            power = float(rise[1] / rise[0])
        return power * self.share(cost)


def _pooled(
    one: tuple[float, float, int], other: tuple[float, float, int]
) -> tuple[float, float, int]:
    count = one[2] + other[2]
    x, y = ((a * one[2] + b * other[2]) / count for a, b in zip(one[:2], other[:2], strict=True))
    return x, y, count


UNCALIBRATED: Final = Calibration()
"""KL is what the curves add up to."""
