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
    better = uniform.kl_nats_per_token / max(ours.kl_nats_per_token, 1e-12)
    known = "Measured" if ours.evaluation else "Predicted"
    return Figure(
        name="rivals",
        title="Against uniform precision at equal bytes",
        summary=(
            f"{known} KL {kl(ours.kl_nats_per_token)} against a measured "
            f"{kl(uniform.kl_nats_per_token)} of {uniform.format}: {better:.1f} times less in no "
            "more bytes."
        ),
        columns=("answer", "bytes", objective.label, "measured KL", "95 % from", "to", "top-1"),
        rows=(_row("bitbudget", ours), _row(f"uniform {uniform.format}", uniform)),
    )


def _row(name: str, side: Rival) -> tuple[Cell, ...]:
    first, found = (name, side.file_bytes, side.predicted_kl_nats_per_token), side.evaluation
    if found is None:
        return (*first, "not made", None, None, None)
    return (*first, found.kl_nats_per_token, *found.kl_interval_95, found.top1_agreement)
