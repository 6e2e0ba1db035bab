"""`bitbudget evaluate OUT --activations int8:128`: what an engine with integer products costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bitbudget.app.cli.output import say
from bitbudget.app.core.canonical import JsonObject

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.contract.serving_reports import ActivationReport, ActivationScores

__all__ = ["evaluate_activations"]

_SHOWN: Final = 8


def evaluate_activations(options: JsonObject, *, as_json: bool) -> None:
    """Print the KL with and without rounded activations, and what single modules cost."""
    from bitbudget.app.cli.child import home, run_with_progress
    from bitbudget.app.contract.serving_reports import ActivationReport
    from bitbudget.app.contract.tasks import ActivationTask

    text = options["text"]
    paths = {
        "checkpoint": str(options["checkpoint"].resolve()),
        "text": None if text is None else str(text.resolve()),
    }
    task = ActivationTask.model_validate({"home": home(), **options, **paths})
    report = run_with_progress(task, ActivationReport, "evaluate --activations")
    say(
        report.model_dump(mode="json"),
        as_json=as_json,
        render=lambda console: _print(console, report),
    )


def _print(console: Console, report: ActivationReport) -> None:
    from rich.table import Table

    from bitbudget.app.cli.tables import facts

    rows = {
        "KL": f"{report.kl_nats_per_token:.6f} nats per token, activations as they are",
        report.activations: _words(report.rounded),
        f"{report.activations}, rotated": _words(report.rotated),
        "runs so": f"{report.int8_share:.1%} of the weight bytes (affine 4 and 5 bits, g64)",
        "tokens": f"{report.tokens:,} of {report.evaluated_on}",
    }
    console.print(facts(rows))
    if not report.modules:
        console.print("\nNot by module: in float32 the model takes too much memory here.")
        return
    table = Table(box=None, header_style="dim", title="\nCostliest modules", title_justify="left")
    for column in ("module", "format", "KL of its inputs", "rotated"):
        table.add_column(column, justify="left" if column == "module" else "right")
    worst = sorted(report.modules.items(), key=lambda item: -item[1].kl_nats_per_token)
    for path, found in worst[:_SHOWN]:
        costs = (found.kl_nats_per_token, found.rotated_kl_nats_per_token)
        table.add_row(path, found.format, *(f"{cost:.2e}" for cost in costs))
    console.print(table)


def _words(scores: ActivationScores) -> str:
    low, high = scores.more_interval_95
    return (
        f"{scores.kl_nats_per_token:.6f}, {scores.more_nats_per_token:+.2e} more"
        f" (95 %: {low:+.1e} to {high:+.1e})"
    )
