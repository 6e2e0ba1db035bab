"""What was measured of a finished checkpoint, written into its model card."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bitbudget.app.contract.reports import Baseline, Evaluation, Rival
from bitbudget.app.core.formats import parse_format

__all__ = ["with_measured"]

_HEADING: Final = "\n## Measured\n"
_SECTION: Final = (
    _HEADING
    + """
KL to the original in nats per token, with 95 % intervals, over {tokens:,} tokens of {what}. This
checkpoint's likeliest next token is the original's in {agreement:.2%}, its perplexity {ratio:.4f}
times the original's.

| checkpoint | bytes | KL |
|---|---|---|
{rows}
"""
)


def with_measured(card: str, folder: Path, report: Evaluation, baseline: Baseline | None) -> str:
    """Return the card of the checkpoint in `folder` with what was measured, instead of the last."""
    card, _, _ = card.partition(_HEADING)
    nbytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    rows = [_measured("this one", nbytes, report)]
    if baseline is not None:
        uniform = f"uniform {parse_format(baseline.uniform.format).short_name}"
        rows += [_rival(uniform, baseline.uniform)]
        rows += [_rival("bitbudget in no more bytes than that", baseline.ours_at_equal_bytes)]
    section = _SECTION.format(
        what="text the original wrote" if report.evaluated_on == "rollouts" else "held-out text",
        tokens=report.tokens,
        agreement=report.top1_agreement,
        ratio=report.perplexity_ratio,
        rows="\n".join(rows),
    )
    return card.rstrip("\n") + "\n" + section


def _rival(name: str, rival: Rival) -> str:
    if rival.evaluation is None:
        kl = f"{rival.predicted_kl_nats_per_token:.4g}, predicted"
        return f"| {name} | {rival.file_bytes} | {kl} |"
    return _measured(name, rival.file_bytes, rival.evaluation)


def _measured(name: str, nbytes: int, report: Evaluation) -> str:
    low, high = report.kl_interval_95
    return f"| {name} | {nbytes} | {report.kl_nats_per_token:.4g} [{low:.4g}, {high:.4g}] |"
