"""From what the curves of an allocation add up to, to the KL that whole checkpoints measured.

Costs are additive only while errors are small and their effect quadratic. At few bits they
interact, and a router whose choice flips costs in proportion to the error, not to its square. A
correction of single curves would trade modules wrongly; one of their sum leaves every ranking, and
so every optimum, as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from pydantic import NonNegativeFloat, PositiveFloat

from bitbudget.app.core.errors import InvalidRequestError

__all__ = ["UNCALIBRATED", "Calibration", "CheckpointKl"]

_NORMAL_95: Final = 1.96
_LEAST_DRIFT: Final = 0.1
"""Standard error of log KL for each factor of e in cost beyond the measured checkpoints."""

_MOST_ERROR: Final = 3.0
"""No standard error of log KL is said to be larger."""
_REACH: Final = 10.0
"""Factor in cost over which what was learned of one checkpoint fades to 1/e."""


@dataclass(frozen=True, slots=True)
class CheckpointKl:
    """One checkpoint: the sum of its curves' costs and its measured KL, in nats per token.

    `log_error` is the standard error of log KL: what the rollouts it was measured on leave open,
    and how far other allocations of its size are from their predictions.
    """

    cost: float
    measured: float
    log_error: float = 0.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whole checkpoints, by rising sums of their curves' costs, and the KL measured of each.

    Both in nats per token and strictly rising. Between two of them KL is a power of the cost,
    beyond the last ones it is in proportion to it; without any it is the cost itself.
    `log_errors` are the standard errors of log KL at the checkpoints, where they are known.

        law = Calibration(costs=(0.01, 0.1), measured=(0.02, 0.3), log_errors=(0.05, 0.1))
        law.kl(0.1), law.interval_95(0.1)  # 0.3, (0.247, 0.365)
    """

    costs: tuple[PositiveFloat, ...] = ()
    measured: tuple[PositiveFloat, ...] = ()
    log_errors: tuple[NonNegativeFloat, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what does not rise: bounds would not stay bounds."""
        rise = all(a < b for row in (self.costs, self.measured) for a, b in pairwise(row))
        counts = len(self.costs), len(self.measured), len(self.log_errors) or len(self.costs)
        if len(set(counts)) > 1 or not rise:
            raise InvalidRequestError(
                where="calibration",
                found=f"costs {self.costs}, measured {self.measured}, errors {self.log_errors}",
                expected="as many of each, costs and measured rising",
                remedy="measure the model again",
            )

    @classmethod
    def through(cls, checkpoints: Iterable[CheckpointKl]) -> Calibration:
        """Return the calibration through measured checkpoints, in any order.

        Neighbours that measurement noise has in the wrong order count as one in their middle, as
        isotonic regression does (pool adjacent violators, here of logarithms).
        """
        pools: list[_Pool] = []
        known = (one for one in checkpoints if one.cost > 0 and one.measured > 0)
        for one in sorted(known, key=lambda one: (one.cost, one.measured)):
            pool = _Pool(float(np.log(one.cost)), float(np.log(one.measured)), one.log_error)
            while pools and (pool.y <= pools[-1].y or pool.x <= pools[-1].x):
                pool = pools.pop().joined(pool)
            pools.append(pool)
        return cls(
            tuple(float(np.exp(pool.x)) for pool in pools),
            tuple(float(np.exp(pool.y)) for pool in pools),
            tuple(pool.error for pool in pools),
        )

    def refined(self, one: CheckpointKl) -> Calibration:
        """Return the calibration after one more checkpoint was measured.

        What was expected of it and what was measured are averaged by their precisions (a Kalman
        update of log KL); checkpoints of other sizes move along, by 1/e for each factor of `_REACH`
        in cost. Without a calibration the checkpoint is all there is.
        """
        if one.cost <= 0 or one.measured <= 0:
            return self
        if not self.log_errors:
            return Calibration.through([one])
        expected = self._log_error(one.cost)
        both = expected**2 + one.log_error**2
        share = expected**2 / both if both > 0 else 1.0
        move = share * float(np.log(one.measured / self.kl(one.cost)))
        x = np.log(self.costs)
        reach = np.exp(-np.abs(x - np.log(one.cost)) / np.log(_REACH))
        moved = np.exp(np.log(self.measured) + move * reach).tolist()
        new = CheckpointKl(one.cost, self.kl(one.cost) * float(np.exp(move)), one.log_error)
        known = map(CheckpointKl, self.costs, moved, self.log_errors)
        return Calibration.through([*known, new])

    def kl(self, cost: float) -> float:
        """Return the KL in nats per token that an allocation of this cost is expected to have."""
        if not self.costs or cost <= 0:
            return cost
        x, y = np.log(self.costs), np.log(self.measured)
        at = float(np.log(cost))
        inside = min(max(at, x[0]), x[-1])
        return float(np.exp(np.interp(inside, x, y) + at - inside))

    def interval_95(self, cost: float) -> tuple[float, float] | None:
        """Return between which KL, in nats per token, an allocation of this cost is expected.

        Its standard error in log KL is that of the checkpoints, interpolated in log cost. Beyond
        the last of them it grows with the logarithm of the distance, by how far the power of the
        last segment is from 1, which is what `kl` goes on with there. None where no errors are
        known.
        """
        if not self.log_errors or cost <= 0:
            return None
        middle, factor = self.kl(cost), float(np.exp(_NORMAL_95 * self._log_error(cost)))
        return middle / factor, middle * factor

    def _log_error(self, cost: float) -> float:
        x, at = np.log(self.costs), float(np.log(cost))
        inside = min(max(at, x[0]), x[-1])
        beyond = abs(at - inside) * self._drift(is_above=at > inside)
        return min(float(np.hypot(np.interp(inside, x, self.log_errors), beyond)), _MOST_ERROR)

    def _drift(self, *, is_above: bool) -> float:
        """Return the standard error of log KL for each factor of e beyond the last checkpoint."""
        if len(self.costs) == 1:
            return _LEAST_DRIFT
        ends = slice(-2, None) if is_above else slice(0, 2)
        rise = np.diff(np.log([self.costs[ends], self.measured[ends]]))[:, 0]
        return max(abs(float(rise[1] / rise[0]) - 1), _LEAST_DRIFT)

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


@dataclass(frozen=True, slots=True)
class _Pool:
    """Checkpoints that count as one: means of log cost and log KL, and that one's error."""

    x: float
    y: float
    error: float
    count: int = 1

    def joined(self, other: _Pool) -> _Pool:
        """Return the pool of both."""
        count = self.count + other.count
        weights = self.count / count, other.count / count
        x, y = (float(np.dot(weights, pair)) for pair in ((self.x, other.x), (self.y, other.y)))
        error = float(np.sqrt(np.dot(weights, np.square([self.error, other.error]))))
        return _Pool(x, y, error, count)


UNCALIBRATED: Final = Calibration()
"""KL is what the curves add up to."""
