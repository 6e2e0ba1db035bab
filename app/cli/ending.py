"""What a finished checkpoint's command ends with: comparison, where things are, what comes next."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

from rich.table import Table

from bitbudget.app.core.commands import other_budget_command
from bitbudget.app.core.formats import parse_format

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.contract.reports import Baseline, Rival
    from bitbudget.app.core.requests import JobRequest

__all__ = ["print_comparison", "print_next"]

_CAPTION: Final = (
    "Measured on text the original writes itself. Predicted for the encoder {encoder}; the uniform "
    "checkpoint is made as mx.quantize does."
)


def print_comparison(console: Console, baseline: Baseline, encoder: str) -> None:
    """Draw a checkpoint beside the uniform one of no fewer bytes."""
    uniform = f"uniform {parse_format(baseline.uniform.format).short_name}"
    sides = {"bitbudget": baseline.ours_at_equal_bytes, uniform: baseline.uniform}
    title = f"\nKL to the original in the bytes of {uniform}, nats per token"
    table = Table(title=title, title_justify="left", box=None)
    for name in ("", "bytes", "predicted", "measured", "95 % interval", "top-1"):
        table.add_column(name, justify="right" if name else "left")
    for name, side in sides.items():
        table.add_row(name, *_row(side))
    console.print(table)
    console.print(_gain(baseline, uniform))
    console.print(_CAPTION.format(encoder=encoder), style="dim")


def _row(side: Rival) -> tuple[str, ...]:
    predicted, found = f"{side.predicted_kl_nats_per_token:.5f}", side.evaluation
    if found is None:
        return f"{side.file_bytes:,}", predicted, "not made", "", ""
    low, high = found.kl_interval_95
    kl, agreement = f"{found.kl_nats_per_token:.5f}", f"{found.top1_agreement:.2%}"
    return f"{side.file_bytes:,}", predicted, kl, f"{low:.5f}-{high:.5f}", agreement


def _gain(baseline: Baseline, uniform: str) -> str:
    ours, theirs = baseline.ours_at_equal_bytes, baseline.uniform.kl_nats_per_token
    known = "" if ours.evaluation else " (predicted)"
    if not 0 < ours.kl_nats_per_token < theirs:
        return f"No less KL than {uniform} in no more bytes{known}."
    times = theirs / ours.kl_nats_per_token
    return f"{times:.1f} times less KL than {uniform} in no more bytes{known}."


def print_next(console: Console, checkpoint: str, request: JobRequest, *, page: str = "") -> None:
    """Say where the checkpoint is, and the commands that use it."""
    folder = shlex.quote(checkpoint)
    console.print(f"\nCheckpoint:     {checkpoint}", markup=False)
    console.print(f"Manifest:       {checkpoint}/manifest.json", markup=False)
    if page:
        console.print(f"Dashboard:      bitbudget serve, then {page}", markup=False)
    console.print(f"Try it:         mlx_lm.generate --model {folder} --prompt 'Once'", markup=False)
    original = shlex.quote(request.model)
    console.print(f"Compare:        bitbudget compare-text {original} {folder}", markup=False)
    console.print(f"Serve it:       bitbudget api {folder}", markup=False)
    another = other_budget_command(request)
    console.print(f"Another budget: {another}  (nothing is measured again)", markup=False)
