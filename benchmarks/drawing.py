"""A picture of KL against bits per weight, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["picture"]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 720, 440, 70, 50, 40, 190
_COLOURS = ("#0b6e4f", "#d1495b", "#2e5eaa", "#edae49", "#6a4c93", "#777777", "#00798c", "#b5651d")


def picture(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return an SVG with one series per family of methods, KL on a logarithmic axis."""
    families: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        method = str(row["method"])
        family = method if method.startswith("ours") else method.split(":", maxsplit=1)[0]
        families.setdefault(family, []).append((row["bits_per_weight"], max(row["kl"], 1e-6)))
    points = [point for series in families.values() for point in series]
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    low_y, high_y = (
        math.floor(math.log10(min(y for _, y in points))),
        math.ceil(math.log10(max(y for _, y in points))),
    )

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - low_x) / max(high_x - low_x, 1e-9)
        up = (math.log10(y) - low_y) / max(high_y - low_y, 1)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _BOTTOM - _TOP),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}">',
        '<g font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{name}: KL to the original, held-out text</text>',
        f'<text x="{_LEFT}" y="{_HEIGHT - 12}">bits per weight, files included</text>',
    ]
    for power in range(low_y, high_y + 1):
        _, y = place(low_x, 10.0**power)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
            f'<text x="8" y="{y + 4:.1f}">1e{power} nats</text>'
        )
    for bits in range(math.ceil(low_x), math.floor(high_x) + 1):
        x, _ = place(bits, 10.0**low_y)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}">{bits}</text>')
    for index, (family, series) in enumerate(families.items()):
        parts += _series(family, [place(*point) for point in sorted(series)], index)
    return "\n".join([*parts, "</g></svg>\n"])


def _series(family: str, places: list[tuple[float, float]], index: int) -> list[str]:
    colour = _COLOURS[index % len(_COLOURS)]
    parts = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in places]
    if family.startswith("ours"):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
    y = _TOP + 18 * index
    parts.append(f'<circle cx="{_WIDTH - _RIGHT + 14}" cy="{y}" r="4" fill="{colour}"/>')
    parts.append(f'<text x="{_WIDTH - _RIGHT + 24}" y="{y + 4}">{family}</text>')
    return parts
