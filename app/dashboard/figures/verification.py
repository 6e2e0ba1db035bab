"""Predicted against measured KL on random mixed allocations and on whole checkpoints."""

from __future__ import annotations

from bitbudget.app.core.measurement import Measurement
from bitbudget.app.dashboard.figures.figure import Cell, Figure, Series

__all__ = ["verification_figure"]


def verification_figure(measurement: Measurement) -> Figure | None:
    """Return the scatter of predicted and measured KL with the line of equality, where known."""
    found, law = measurement.verification, measurement.calibration
    if found is None:
        return None
    both = (*found.predicted, *found.measured, *law.costs, *law.measured)
    values = [value for value in both if value > 0]
    ends = [min(values), max(values)] if values else []
    allocations = zip(found.bits_per_weight, found.predicted, found.measured, strict=True)
    rows: list[tuple[Cell, ...]] = [("random allocation", *row) for row in allocations]
    rows += [("whole checkpoint", None, *row) for row in zip(law.costs, law.measured, strict=True)]
    series = [
        Series("equal", ends, ends, kind="line", role="faint"),
        Series(
            "allocations",
            found.predicted,
            found.measured,
            labels=[f"{bits:.2f} bits per weight" for bits in found.bits_per_weight],
        ),
    ]
    summary = (
        f"On {len(found.predicted)} random mixed allocations, which correct nothing: "
        f"R\N{SUPERSCRIPT TWO} {found.r_squared:.3f}, Spearman {found.spearman:.3f}, "
        f"slope {found.slope:.2f}."
    )
    if law.costs:
        labels = ["whole checkpoint"] * len(law.costs)
        series.append(Series("checkpoints", law.costs, law.measured, role="ours", labels=labels))
        summary += f" Predictions are corrected to go through {len(law.costs)} whole checkpoints."
    return Figure(
        name="verification",
        title="Predicted against measured",
        summary=summary,
        columns=(
            "what",
            "bits per weight",
            "predicted KL, of whole checkpoints the sum of the curves",
            "measured KL",
        ),
        rows=tuple(rows),
        series=tuple(series),
        x_title="predicted KL, of checkpoints the sum of the curves (nats per token)",
        y_title="measured KL (nats per token)",
        x_scale="log",
        y_scale="log",
    )
