"""What a run ends with: the checkpoint beside uniform precision."""

from __future__ import annotations

import io

from rich.console import Console

from bitbudget.app.cli.ending import print_comparison
from bitbudget.app.contract.reports import Baseline, Rival, UniformRival
from tests.support.reports import evaluation


def printed(ours: Rival) -> str:
    uniform = UniformRival(
        sha256="0" * 64,
        file_bytes=10,
        predicted_kl_nats_per_token=0.05,
        evaluation=evaluation(0.04),
        format="affine4g64",
    )
    out = io.StringIO()
    baseline = Baseline(uniform=uniform, ours_at_equal_bytes=ours)
    print_comparison(Console(file=out, width=120), baseline, "yaqa")
    return out.getvalue()


def test_what_was_only_predicted_is_said_to_be() -> None:
    ours = Rival(sha256="1" * 64, file_bytes=9, predicted_kl_nats_per_token=0.01)
    told = printed(ours)
    assert "4.0 times less KL than uniform 4g64 in no more bytes (predicted)." in told
    assert "not made" in told
    measured = printed(ours.model_copy(update={"evaluation": evaluation(0.02)}))
    assert "2.0 times less KL than uniform 4g64 in no more bytes." in measured
    assert "not made" not in measured
