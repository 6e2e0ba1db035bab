"""The results of quality.py as Markdown tables."""

from __future__ import annotations

from typing import Any

__all__ = ["page"]

Rows = dict[str, dict[str, Any]]


def page(fixtures: dict[str, dict[str, Rows]]) -> str:
    """Return one section for each fixture: peers at equal bytes, then our ways by budget."""
    parts = []
    for name, found in fixtures.items():
        parts += [
            f"### {name}",
            "",
            *_equal(found),
            "",
            *_recovered(found),
            *_ways(found.get("ours", {})),
            "",
        ]
    return "\n".join(parts)


def _equal(found: dict[str, Rows]) -> list[str]:
    """Return peers by bytes with our default within the same bytes."""
    lines = [
        "| peer | bytes | bits/weight | its KL | ours | predicted / measured | ratio [95 %] |",
        "|---|---|---|---|---|---|---|",
    ]
    peers = found.get("peers", {})
    for method, peer in sorted(peers.items(), key=lambda item: item[1].get("bytes", 0)):
        ours = found.get("equal", {}).get(method)
        if "error" in peer:
            lines.append(f"| {method} | | | {peer['error'].splitlines()[-1][:120]} | | | |")
        elif ours is not None:
            low, high = ours["ratio_interval_95"]
            lines.append(
                f"| {method} | {peer['bytes']:,} | {peer['bits_per_weight']:.2f} |"
                f" {_interval(peer)} | {_interval(ours)} | {ours['predicted'] / ours['kl']:.2f} |"
                f" **{ours['ratio']:.3f}** [{low:.3f}, {high:.3f}] |"
            )
    return lines


def _recovered(found: dict[str, Rows]) -> list[str]:
    """Return our finished checkpoints by peer, trained after quantization or not."""
    rows = found.get("recovered", {})
    if not rows:
        return []
    lines = [
        "| peer | bytes | ours, recovery | steps | KL | ratio to the peer [95 %] |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows.values(), key=lambda row: (row["bytes"], row["peer"])):
        low, high = row["ratio_interval_95"]
        recovery = row["recovery"] or {"how": "none", "steps": 0, "seconds": 0}
        how = f"{recovery['how']}, {recovery['seconds']:.0f} s" if row["recovery"] else "none"
        lines.append(
            f"| {row['peer']} | {row['bytes']:,} | {how} | {recovery['steps']} |"
            f" {_interval(row)} | **{row['ratio']:.3f}** [{low:.3f}, {high:.3f}] |"
        )
    return [*lines, ""]


def _interval(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['kl']:.5f} [{low:.5f}, {high:.5f}]"


def _ways(rows: Rows) -> list[str]:
    """Return KL by way and budget; a way is an encoder and a sensitivity."""
    if not rows:
        return []
    budgets = sorted({float(key.rsplit(" ", 1)[1]) for key in rows})
    names = list(dict.fromkeys(key.rsplit(" ", 1)[0] for key in rows))
    lines = [
        "| encoder, sensitivity | " + " | ".join(f"{b:g} bits" for b in budgets) + " |",
        "|---|" + "---|" * len(budgets),
    ]
    for name in names:
        cells = [rows.get(f"{name} {budget:g}", {}) for budget in budgets]
        values = [f"{cell['kl']:.5f}" if "kl" in cell else "" for cell in cells]
        lines.append(f"| {name.removeprefix('ours ')} | " + " | ".join(values) + " |")
    return lines
