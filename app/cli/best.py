"""The best allocation of a measured model that `bitbudget fit` shows beside uniform formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitbudget.app.core.canonical import JsonObject

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.core.measurement import Measurement

__all__ = ["best_within", "print_best"]


def best_within(measured: Measurement | None, budget_bytes: int) -> JsonObject | None:
    """Return the best allocation in so many bytes; None without curves or where nothing fits."""
    from bitbudget.app.core.errors import InfeasibleBudgetError
    from bitbudget.app.core.measurement_file import file_digest
    from bitbudget.app.core.requests import AllocationRequest
    from bitbudget.app.core.solving import allocate_in_time

    if measured is None:
        return None
    try:
        found = allocate_in_time(measured, AllocationRequest(budget=max(budget_bytes, 1)))
    except InfeasibleBudgetError:
        return None
    goal = measured.objective
    return {
        "file_bytes": found.file_bytes,
        f"predicted_{goal.key}": found.predicted_kl_nats_per_token,
        "interval_95": found.interval_95,
        "words": f"{goal.label} {found.predicted_kl_nats_per_token:.3g} {goal.unit}",
        "effort": measured.effort.value,
        "encoder": measured.encoder.value,
        "measurement_sha256": file_digest(measured),
        "origin": measured.origin,
    }


def print_best(console: Console, best: JsonObject | None) -> None:
    """Draw it with the repository that the measurement came from."""
    from bitbudget.app.cli.tables import exact, interval_words

    if best is None:
        return
    where = f" from {best['origin']}" if best["origin"] else ""
    console.print(
        f"\nBest of it, as measured{where}: {exact(best['file_bytes'])}, {best['words']}"
        f"{interval_words(best['interval_95'])}",
        soft_wrap=True,
        markup=False,
    )
