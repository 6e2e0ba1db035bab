"""At which share of a peer's bytes ours loses as much as it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bitbudget.workers.evaluate import compare

__all__ = ["equal_kl_share", "ratio_of"]

Row = Mapping[str, Any]
"""`bytes` and the `kl_per_window` of the windows whose digest is `windows_digest`."""


def ratio_of(ours: Row, peer: Row) -> str:
    """Return the KL of `ours` over that of a peer, as `0.22 [0.21, 0.23]`."""
    found = compare(ours, peer)
    low, high = found["ratio_interval_95"]
    return f"{found['ratio']:.2f} [{low:.2f}, {high:.2f}]"


def equal_kl_share(ours: Iterable[Row], peer: Row) -> str:
    """Return the share of a peer's bytes at which ours has its KL, as `0.78 [0.77, 0.79]`.

    `ours` are checkpoints of one menu at several sizes. The ratios of their KL to the peer's, and
    both ends of their 95 % intervals, are interpolated in the logarithm between two sizes. Where
    all of them lie on one side it is a bound, such as `below 0.72`.
    """
    sizes = sorted(ours, key=lambda row: int(row["bytes"]))
    shares = [row["bytes"] / peer["bytes"] for row in sizes]
    found = [compare(row, peer) for row in sizes]
    share = _crossing(shares, [each["ratio"] for each in found])
    if " " in share:
        return share
    low, high = (
        _crossing(shares, [each["ratio_interval_95"][end] for each in found]) for end in (0, 1)
    )
    return f"{share} [{low}, {high}]"


def _crossing(shares: Sequence[float], ratios: Sequence[float]) -> str:
    """Return the share at which a falling ratio is 1, or a bound for it."""
    logs = np.log(ratios)
    if logs[0] <= 0:
        return f"below {shares[0]:.2f}"
    if logs[-1] > 0:
        return f"above {shares[-1]:.2f}"
    return f"{np.interp(0, logs[::-1], shares[::-1]):.2f}"
