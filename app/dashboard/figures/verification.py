"""Predicted against measured KL on random mixed allocations."""

from __future__ import annotations

from app.core.measurement import Verification
from app.dashboard.figures.figure import Figure, Series

__all__ = ["verification_figure"]


def verification_figure(found: Verification) -> Figure:
    """Return the scatter of predicted and measured KL with the line of equality."""
    values = [value for value in (*found.predicted, *found.measured) if value > 0]
    ends = [min(values), max(values)] if values else []
    rows = zip(found.bits_per_weight, found.predicted, found.measured, strict=True)
    return Figure(
        name="verification",
        title="Predicted against measured",
        summary=(
            f"On {len(found.predicted)} random mixed allocations: "
            f"R\N{SUPERSCRIPT TWO} {found.r_squared:.3f}, Spearman {found.spearman:.3f}, "
            f"slope {found.slope:.2f}."
        ),
        columns=("bits per weight", "predicted KL", "measured KL"),
        rows=tuple(rows),
        series=(
            Series("equal", ends, ends, kind="line", role="faint"),
            Series(
                "allocations",
                found.predicted,
                found.measured,
                labels=[f"{bits:.2f} bits per weight" for bits in found.bits_per_weight],
            ),
        ),
        x_title="predicted KL (nats per token)",
        y_title="measured KL (nats per token)",
        x_scale="log",
        y_scale="log",
    )
