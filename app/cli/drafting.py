"""`bitbudget evaluate TARGET --draft DRAFT`: what a draft model is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bitbudget.app.cli.output import say
from bitbudget.app.core.canonical import JsonObject

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.contract.serving_reports import DraftReport

__all__ = ["evaluate_draft"]


def evaluate_draft(target: Path, draft: Path, options: JsonObject, *, as_json: bool) -> None:
    """Print acceptance, the best number of drafted tokens and the modelled speed-up."""
    from bitbudget.app.cli.child import home, run_with_progress
    from bitbudget.app.contract.serving_reports import DraftReport
    from bitbudget.app.contract.tasks import DraftTask

    text = options["text"]
    options = {**options, "text": None if text is None else str(text.resolve())}
    both = {"target": str(target.resolve()), "draft": str(draft.resolve())}
    task = DraftTask.model_validate({"home": home(), **both, **options})
    report = run_with_progress(task, DraftReport, "evaluate --draft")
    say(
        report.model_dump(mode="json"),
        as_json=as_json,
        render=lambda console: _print(console, report),
    )


def _print(console: Console, report: DraftReport) -> None:
    from bitbudget.app.cli.tables import facts

    source = (
        "predicted from both manifests"
        if report.predicted_from == "manifests"
        else f"measured on {report.tokens:,} tokens"
    )
    rows = {
        "drafted tokens accepted": f"{report.acceptance:.1%} with shared noise, {source}",
        "expected acceptance rate": f"{report.expected_acceptance_rate:.1%}, at most possible",
        "KL of the two": f"{report.kl_nats_per_token:.5f} nats per token",
        "bytes of a drafted token": f"{report.draft_cost:.2f} of the target's",
        "draft at a time": f"{report.draft_tokens} tokens"
        if report.draft_tokens
        else "nothing: decoding without a draft is faster",
        "speed, modelled": f"{report.speedup:.2f} times, if verifying takes"
        f" {report.verify_cost:g} tokens of the target",
    }
    if report.independent is not None:
        rows["with independent samples"] = f"{report.independent:.1%} accepted"
    console.print(facts(rows))
    if report.draft_tokens:
        console.print(
            f"\nServe both: bitbudget api {report.target} --draft-model {report.draft}"
            f" --draft-tokens {report.draft_tokens}",
            soft_wrap=True,
            markup=False,
        )
