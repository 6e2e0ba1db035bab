"""Ours against uniform precision, in no more bytes than it takes."""

from __future__ import annotations

from bitbudget.app.contract.reports import Baseline, Rival
from bitbudget.app.core.sensitivity import KL, Objective
from bitbudget.app.dashboard.figures.figure import Cell, Figure
from bitbudget.app.dashboard.formatting import kl

__all__ = ["equal_bytes"]


def equal_bytes(baseline: Baseline, objective: Objective = KL) -> Figure:
    """Return the table of a job's `baseline` as the worker reports it, under `objective`."""
    uniform, ours = baseline.uniform, baseline.ours_at_equal_bytes
    better = _measured(uniform) / max(_measured(ours), 1e-12)
    return Figure(
        name="rivals",
        title="Against uniform precision at equal bytes",
        summary=(
            f"Measured KL {kl(_measured(ours))} against {kl(_measured(uniform))} of "
            f"{uniform.format}: {better:.1f} times less in no more bytes."
        ),
        columns=("answer", "bytes", objective.label, "measured KL", "95 % from", "to", "top-1"),
        rows=(_row("bitbudget", ours), _row(f"uniform {uniform.format}", uniform)),
    )


def _measured(side: Rival) -> float:
    return side.evaluation.kl_nats_per_token


def _row(name: str, side: Rival) -> tuple[Cell, ...]:
    low, high = side.evaluation.kl_interval_95
    agreement = side.evaluation.top1_agreement
    predicted = side.predicted_kl_nats_per_token
    return (name, side.file_bytes, predicted, _measured(side), low, high, agreement)
