"""Print the table of efforts that stands in docs/effort.md: `python -m tools.effort_table`."""

from __future__ import annotations

from bitbudget.app.core.effort import EFFORTS, EffortPlan

__all__ = ["effort_table"]


def effort_table() -> str:
    """Return what each effort does as a Markdown table."""
    plans = EFFORTS.values()
    rows = {
        "what it is": [plan.summary for plan in plans],
        "encoder": [f"`{plan.encoder}`" for plan in plans],
        "calibration tokens": [_tokens(plan) for plan in plans],
        "tokens of a window": [str(plan.window_tokens) for plan in plans],
        "curves of large modules": [_curves(plan) for plan in plans],
        "prediction": [
            "calibrated on whole checkpoints" if plan.verifies else "the sum of the curves"
            for plan in plans
        ],
        "training afterwards": [f"`{plan.recover}`" for plan in plans],
        "speed of a checkpoint": [
            "timed" if plan.benchmark_seconds else "not timed" for plan in plans
        ],
        "windows a checkpoint is evaluated on": [str(plan.evaluated_windows) for plan in plans],
    }
    head = ["", *(f"`{effort}`" for effort in EFFORTS)]
    lines = [head, ["---"] * len(head), *([name, *cells] for name, cells in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def _tokens(plan: EffortPlan) -> str:
    return f"{plan.fewest_tokens:,} to {plan.most_tokens:,}"


def _curves(plan: EffortPlan) -> str:
    if plan.row_weights is None:
        return "coded whole in every format"
    return f"estimated from rows with {plan.row_weights:,} weights"


if __name__ == "__main__":
    print(effort_table())
