"""The few numbers at the head of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitbudget.app.contract.reports import Evaluation
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.sizes import format_size
from bitbudget.app.dashboard.formatting import gap_words, kl

__all__ = ["Tile", "answer_tiles", "evaluation_tiles"]

_NATS = "nats per token"


@dataclass(frozen=True, slots=True)
class Tile:
    """A name, its value, and what to know about it; `mark` is `ours` for the main one."""

    name: str
    value: str
    unit: str = ""
    note: str = ""
    mark: str = ""


def answer_tiles(manifest: Manifest) -> list[Tile]:
    """Return size, predicted KL, bound and price of an allocation."""
    proof, goal = manifest.certificate, manifest.objective
    spare = manifest.budget_bytes - manifest.file_bytes
    price = proof.shadow_price_nats_per_byte * 2**20
    return [
        Tile(
            "Files",
            format_size(manifest.file_bytes),
            f"{manifest.bits_per_weight:.2f} bits per weight",
            note=f"{manifest.file_bytes:,} bytes, {spare:,} to spare",
        ),
        Tile(
            goal.title,
            kl(proof.predicted_kl_nats_per_token),
            goal.unit,
            note=_interval(proof.predicted_kl_interval_95),
            mark="ours",
        ),
        Tile("Lower bound", kl(proof.bound), goal.unit, note=gap_words(proof.status, proof.gap)),
        Tile("One more MiB buys", kl(price), goal.unit, note=f"solved by {proof.solver}"),
    ]


def evaluation_tiles(evaluation: Evaluation | None) -> list[Tile]:
    """Return the measured KL with its interval."""
    if evaluation is None:
        return []
    value = kl(evaluation.kl_nats_per_token)
    note = _interval(evaluation.kl_interval_95)
    return [Tile("Measured KL", value, _NATS, note=note, mark="ours")]


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"95 %: {kl(interval[0])} to {kl(interval[1])}"
