"""What measuring has to reach, and whether a run of `benchmarks.measure` reached it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["Outcome", "Row", "outcomes"]

MEMORY_LIMIT_MIB: Final = 1536 + 1188
"""1.5 GiB and the embedding of Qwen3-8B, the largest tensor of what is measured."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Zero stands for what was not measured."""

    what: str
    gigabytes: float
    wall_seconds_per_gb: float
    cpu_seconds_per_gb: float
    peak_rss_mib: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A target: what was found, and the limit it has to keep."""

    what: str
    found: float
    limit: float
    unit: str
    is_floor: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the target is reached."""
        return self.found >= self.limit if self.is_floor else self.found <= self.limit

    def line(self) -> str:
        """Return the target as a line of text."""
        sign = ">=" if self.is_floor else "<="
        state = "met" if self.is_met else "NOT MET"
        return f"{state:8s}{self.what:62s} {self.found:10.4g} {sign} {self.limit:g} {self.unit}"


def outcomes(rows: Mapping[str, Row], errors: Mapping[str, float]) -> Iterator[Outcome]:
    """Yield every target that the rows, by name, and the errors of estimates speak of."""
    for variant, least in (("kernels-x86-64-v3", 0.9), ("kernels-x86-64-v4", 1.5)):
        if row := rows.get(f"sweep, 18 affine formats, {variant}"):
            rate = 1 / row.cpu_seconds_per_gb
            yield Outcome(
                f"{variant}, 18 affine formats", rate, least, "GB/s a core", is_floor=True
            )
    yield from _against_mlx(rows)
    yield from _from_disk(rows)
    for name, row in rows.items():
        if name.startswith("bitbudget measure"):
            yield Outcome(name, row.cpu_seconds_per_gb, 6, "CPU-s/GB")
        if name.startswith("careful encoding"):
            yield Outcome(name, 1 / row.cpu_seconds_per_gb, 0.5, "GB/s a core", is_floor=True)
        if row.peak_rss_mib:
            yield Outcome(name, row.peak_rss_mib, MEMORY_LIMIT_MIB, "MiB")
    limits = {"reference": 1e-3, "reference up to 5 bits": 1e-5, "sampled careful": 5e-3}
    for name, found in errors.items():
        yield Outcome(f"relative error, {name}", found, limits[name], "")


def _against_mlx(rows: Mapping[str, Row]) -> Iterator[Outcome]:
    for kind, count, least in (("affine", 18, 250), ("float", 3, 50)):
        peer = rows.get(f"MLX ops loop, {count} {kind} formats")
        if peer is not None:
            ours = rows[f"measure_weight, {count} {kind} formats, minmax"]
            ratio = peer.cpu_seconds_per_gb / ours.cpu_seconds_per_gb
            yield Outcome(
                f"{count} {kind} formats against MLX's ops", ratio, least, "x", is_floor=True
            )


def _from_disk(rows: Mapping[str, Row]) -> Iterator[Outcome]:
    for name, row in rows.items():
        if name.startswith("file to curves, cold"):
            floor = rows[f"read only, cold, {name.rsplit(', ', 1)[1]}"]
            share = 100 * floor.wall_seconds_per_gb / row.wall_seconds_per_gb
            yield Outcome(name, share, 75, "% of read-only", is_floor=True)
