"""How a module's error is turned into what an allocation minimises, and in which unit that is.

To add a sensitivity: a name and an entry here, and its measurement in the worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["KL", "WEIGHT_ERROR", "Objective", "Sensitivity", "collects_statistics", "objective_of"]


class Sensitivity(StrEnum):
    """How the cost of a module's error is found."""

    FISHER = "fisher"
    PROBE = "probe"
    WEIGHTS = "weights"


@dataclass(frozen=True, slots=True)
class Objective:
    """What an allocation minimises, in the words that every table, page and document shows.

    `name` stands alone in a sentence, `label` names a predicted value, `unit` follows a number,
    `short_unit` a number in a narrow column. `key` is the name of a predicted value in documents.

    >>> f"{KL.label}: 0.0123 {KL.unit}"
    'predicted KL: 0.0123 nats per token'
    """

    name: str
    label: str
    unit: str
    short_unit: str
    key: str
    is_kl: bool

    @property
    def title(self) -> str:
        """The label with a capital, for headings."""
        return self.label[0].upper() + self.label[1:]

    @property
    def axis(self) -> str:
        """The label with its unit, for axes and columns."""
        return f"{self.label} ({self.unit})"


KL: Final = Objective(
    "KL", "predicted KL", "nats per token", "nats", "kl_nats_per_token", is_kl=True
)
"""The KL divergence of the model's next-token distribution from the original's."""

WEIGHT_ERROR: Final = Objective(
    "weight error",
    "weight error",
    "share of the squared weights",
    "share",
    "weight_error",
    is_kl=False,
)
"""The mean over all weights of their module's t2 = ||W_hat - W||^2 / ||W||^2. It is no KL, and says
nothing of how much the model's output changes."""


@dataclass(frozen=True, slots=True)
class _Entry:
    objective: Objective
    collects_statistics: bool


_ENTRIES: Final[Mapping[Sensitivity, _Entry]] = {
    Sensitivity.FISHER: _Entry(KL, collects_statistics=True),
    Sensitivity.PROBE: _Entry(KL, collects_statistics=False),
    Sensitivity.WEIGHTS: _Entry(WEIGHT_ERROR, collects_statistics=False),
}


def objective_of(sensitivity: Sensitivity) -> Objective:
    """Return what an allocation on this sensitivity minimises."""
    return _ENTRIES[sensitivity].objective


def collects_statistics(sensitivity: Sensitivity) -> bool:
    """Whether it leaves the statistics of inputs and gradients that some encoders need."""
    return _ENTRIES[sensitivity].collects_statistics
