"""The answer to a request: one format per module, with its certificate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bitbudget.app.core.formats import FormatName
from bitbudget.app.core.kv import KvFormats

__all__ = ["Allocation"]


@dataclass(frozen=True, slots=True)
class Allocation:
    """One format per module, and how good the choice is.

    `bound` is a proven lower bound on the KL of any allocation within the budget (nats per token),
    `gap` = (predicted - bound) / predicted, `shadow_price_nats_per_byte` the KL one more byte buys.
    `status` is `optimal` or `feasible`; `stopped_by` says what ended the search when feasible.
    `interval_95` is where the predicted KL is expected to be measured, None where that is unknown.
    `kv_formats` by cache layer are those chosen with the weights, None where they were given.
    """

    formats: Mapping[str, FormatName]
    file_bytes: int
    budget_bytes: int
    predicted_kl_nats_per_token: float
    bound: float
    gap: float
    shadow_price_nats_per_byte: float
    status: str
    solver: str
    stopped_by: str = ""
    kv_formats: KvFormats | None = None
    notes: tuple[str, ...] = ()
    interval_95: tuple[float, float] | None = None

    @property
    def slack_bytes(self) -> int:
        """Bytes of the budget left over."""
        return self.budget_bytes - self.file_bytes
