"""In which share of a peer's bytes ours loses as much as it."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.equal_kl import equal_kl_share


def row(nbytes: int, kl: float) -> dict[str, Any]:
    return {"bytes": nbytes, "kl_per_window": [kl, kl], "windows_digest": "same"}


@pytest.mark.parametrize(
    ("ours", "share"),
    [
        ([row(60, 0.4), row(80, 0.1)], "0.70 [0.70, 0.70]"),  # half way in the logarithm
        ([row(80, 0.1), row(60, 0.4), row(100, 0.05)], "0.70 [0.70, 0.70]"),
        ([row(60, 0.19), row(80, 0.1)], "below 0.60"),
        ([row(60, 0.4), row(80, 0.21)], "above 0.80"),
    ],
)
def test_the_share_lies_where_both_lose_the_same(ours: list[dict[str, Any]], share: str) -> None:
    assert equal_kl_share(ours, row(100, 0.2)) == share


def test_the_interval_is_that_of_the_paired_ratio() -> None:
    """Windows differ: resamples move the ratio, and with it the share."""
    peer = row(100, 0.2)
    ours = [
        row(60, 0.4) | {"kl_per_window": [0.5, 0.3]},
        row(80, 0.1) | {"kl_per_window": [0.12, 0.08]},
    ]
    share, low, high = (float(part.strip("[],")) for part in equal_kl_share(ours, peer).split())
    assert low < share < high
    assert share == pytest.approx(0.70, abs=0.005)
