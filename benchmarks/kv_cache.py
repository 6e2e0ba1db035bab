"""What formats of the KV cache cost, with exact weights, and whether the prediction is right.

`python -m bitbudget.workers.native.preload -m benchmarks.kv_cache` rounds the keys and values of
every layer of each fixture as its caches would hold them and takes the KL on held-out text to the
same model with caches in its own type. Intervals are over windows of the text; ratios are paired.
Sensitivities come from text the model writes; nothing is fitted on what is reported. `--memory`
prints what formats leave for the weights of Llama-3.1-8B, by the core's arithmetic and no model.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np

from benchmarks.kv_memory import memory_table
from bitbudget.app.core.inventory import CacheLayer, Inventory
from bitbudget.app.core.kv import KvFormat, KvSide, legal_kv_formats, quantized_formats
from bitbudget.app.core.measurement import KvCurve
from bitbudget.workers.evaluate.statistics import compare, interval_95
from bitbudget.workers.evaluate.windows import digest, text_windows
from bitbudget.workers.fisher import collect_statistics
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.pipeline.measuring.kv import source_dtype
from bitbudget.workers.probe.kv import Choice, kv_kl, probe_kv
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.tokens import sample_tokens

FIXTURES: Final = ("stories260K-llama", "babyllama105-llama", "tinyqwen3-moe", "tinyqwen3-dense")
AFFINE: Final = tuple(KvFormat(bits, group) for bits in (8, 4, 3) for group in (64, 32))
ROTATED: Final = tuple(KvFormat(bits, rotated=True) for bits in (4, 3, 2))
TARGETS: Final = (
    (KvFormat(4, rotated=True), KvFormat(4, 64), 0.8),
    (KvFormat(3, rotated=True), KvFormat(3, 64), 0.7),
)
"""A rotated format, the affine one of more bytes, and the largest ratio of their KL we aim at."""
SIDES: Final = {
    "both": (KvSide.KEYS, KvSide.VALUES),
    "keys": (KvSide.KEYS,),
    "values": (KvSide.VALUES,),
}
MIXES: Final = 8


@dataclass(frozen=True)
class Fixture:
    """A model, the caches that take quantized formats, and held-out windows of text."""

    folder: Path
    inventory: Inventory
    caches: tuple[CacheLayer, ...]
    windows: np.ndarray

    @classmethod
    def open(cls, folder: Path, text: Path, count: int) -> Fixture:
        """Return the fixture in `folder` with `count` windows of the file `text`."""
        inventory = build_inventory(open_checkpoint(folder))
        caches = tuple(c for c in inventory.architecture.cache if quantized_formats(c))
        windows = text_windows(folder, text.read_text(encoding="utf-8"), where=str(text))
        chosen = np.linspace(0, len(windows) - 1, min(count, len(windows))).astype(int)
        return cls(folder, inventory, caches, windows[chosen])

    @property
    def width(self) -> int:
        """Channels of a head."""
        return self.inventory.architecture.cache[0].head_width

    def choice(self, format_: KvFormat, sides: Sequence[KvSide]) -> Choice:
        """Return `format_` for these sides of every cache."""
        return {cache.layer: dict.fromkeys(sides, format_) for cache in self.caches}

    def mixes(self, seed: int) -> list[Choice]:
        """Return random legal formats, keys and values of every layer apart."""
        draw = np.random.default_rng(seed)
        sides = (KvSide.KEYS, KvSide.VALUES)
        legal = {
            (cache.layer, side): legal_kv_formats(cache, side)
            for cache in self.caches
            for side in sides
        }
        return [
            {
                cache.layer: {
                    side: legal[cache.layer, side][draw.integers(len(legal[cache.layer, side]))]
                    for side in sides
                }
                for cache in self.caches
            }
            for _ in range(MIXES)
        ]


def bits_per_channel(format_: KvFormat, width: int) -> float:
    """Return bits of a code with its share of scales: bfloat16 pairs of groups, or a float16."""
    return format_.bits + (16 / width if format_.rotated else 32 / format_.group_size)


def predicted(curves: Sequence[KvCurve], choice: Choice) -> float:
    """Return the sum of what the curves say of each decision, in nats per token."""
    total = 0.0
    for curve in curves:
        for side, format_ in choice[curve.layer].items():
            points = curve.keys if side is KvSide.KEYS else curve.values
            known = {KvFormat(p.bits, p.group_size, p.rotated): p.kl_nats for p in points}
            total += known[format_]
    return total


def formats_of(fixture: Fixture) -> list[tuple[str, KvFormat, Choice]]:
    """Return every format for keys and values, for keys alone and for values alone."""
    return [
        (name, format_, fixture.choice(format_, sides))
        for format_ in (*AFFINE, *ROTATED)
        for name, sides in SIDES.items()
    ]


def curves_of(fixture: Fixture, method: str, sequences: int) -> tuple[KvCurve, ...]:
    """Return the sensitivity of the caches, from text the model writes."""
    dtype = source_dtype(fixture.inventory)
    if method == "probe":
        return probe_kv(fixture.folder, dtype, seed=0)
    tokens = sample_tokens(fixture.folder, sequences, seed=0)
    return collect_statistics(fixture.folder, tokens, seed=0, source_dtype=dtype).kv_curves


def run(fixture: Fixture, options: argparse.Namespace) -> dict[str, Any]:
    """Measure every format and the mixes; return rows, ratios to targets, and predictions."""
    formats, mixes = formats_of(fixture), fixture.mixes(options.seed)
    choices = [choice for _, _, choice in formats] + mixes
    model, dtype = load_float32(fixture.folder), source_dtype(fixture.inventory)
    tokens = fixture.windows.shape[1]
    nats = [x / tokens for x in kv_kl(model, fixture.windows, choices, dtype)]
    reports = {
        (name, format_): report(x, fixture.windows)
        for (name, format_, _), x in zip(formats, nats, strict=False)
    }
    mixed = [float(x.mean()) for x in nats[len(formats) :]]
    return {
        "rows": [row(key, found, fixture.width) for key, found in reports.items()],
        "targets": [target(reports, *each) for each in TARGETS],
        "mixes": {
            method: accuracy(curves_of(fixture, method, options.sequences), mixes, mixed)
            for method in options.sensitivity
        },
    }


def report(per_window: np.ndarray, windows: np.ndarray) -> dict[str, Any]:
    """Return mean KL in nats per token with its interval, as `compare` reads it."""
    return {
        "kl": float(per_window.mean()),
        "kl_interval_95": interval_95(per_window, seed=0),
        "kl_per_window": per_window.tolist(),
        "windows_digest": digest(windows),
    }


def row(key: tuple[str, KvFormat], found: Mapping[str, Any], width: int) -> dict[str, Any]:
    """Return what is printed of one format."""
    side, format_ = key
    return {
        "format": str(format_),
        "side": side,
        "bits_per_channel": bits_per_channel(format_, width),
        "kl": found["kl"],
        "kl_interval_95": found["kl_interval_95"],
    }


def target(
    reports: Mapping[tuple[str, KvFormat], Any], ours: KvFormat, other: KvFormat, most: float
) -> dict[str, Any]:
    """Return the ratio of two formats for keys and values, and whether it is as low as wanted."""
    found = compare(reports["both", ours], reports["both", other])
    return {
        "name": f"{ours} / {other}",
        "ratio": found["ratio"],
        "ratio_interval_95": found["ratio_interval_95"],
        "target": most,
        "met": found["ratio"] <= most,
    }


def accuracy(
    curves: Sequence[KvCurve], mixes: Sequence[Choice], measured: Sequence[float]
) -> list[dict[str, float]]:
    """Return predicted and measured KL of each mix, and their ratio."""
    pairs = [(predicted(curves, mix), kl) for mix, kl in zip(mixes, measured, strict=True)]
    return [{"predicted": p, "measured": m, "ratio": p / m} for p, m in pairs]


def markdown(name: str, found: Mapping[str, Any]) -> str:
    """Return the tables of one fixture."""
    rows = {(r["format"], r["side"]): r for r in found["rows"]}
    lines = [
        f"## {name}",
        "",
        "| format | bits per channel | keys and values | keys alone | values alone |",
        "|---|---|---|---|---|",
    ]
    for format_ in (*AFFINE, *ROTATED):
        cells = " | ".join(_cell(rows[str(format_), side]) for side in SIDES)
        lines.append(
            f"| {format_} | {rows[str(format_), 'both']['bits_per_channel']:g} | {cells} |"
        )
    lines += ["", "| ratio of KL, keys and values | found | target | |", "|---|---|---|---|"]
    for each in found["targets"]:
        low, high = each["ratio_interval_95"]
        verdict = "met" if each["met"] else "missed"
        shown = f"{each['ratio']:.3f} [{low:.3f}, {high:.3f}]"
        lines.append(f"| {each['name']} | {shown} | {each['target']} | {verdict} |")
    for method, mixes in found["mixes"].items():
        ratios = ", ".join(f"{mix['ratio']:.2f}" for mix in sorted(mixes, key=lambda m: m["ratio"]))
        lines += [
            "",
            f"Predicted over measured KL of {len(mixes)} random mixes, {method}: {ratios}.",
        ]
    return "\n".join(lines) + "\n"


def _cell(found: Mapping[str, Any]) -> str:
    low, high = found["kl_interval_95"]
    return f"{found['kl']:.3g} [{low:.3g}, {high:.3g}]"


def main() -> None:
    """Print the tables of the fixtures asked for, and write the figures as JSON."""
    options = _options()
    if options.memory:
        print(memory_table(options.context))
        return
    text = options.fixtures_dir / "text" / "tinystories_valid_heldout.txt"
    results: dict[str, Any] = {"machine": platform.processor() or platform.machine()}
    for name in options.fixtures:
        began = time.perf_counter()
        fixture = Fixture.open(options.fixtures_dir / name, text, options.windows)
        if not fixture.caches:
            print(f"## {name}\n\nNo format: no group or codebook takes heads of {fixture.width}.\n")
            continue
        results[name] = run(fixture, options)
        results[name]["seconds"] = time.perf_counter() - began
        print(markdown(name, results[name]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fixtures-dir", type=Path, default=Path("../shared/fixtures"))
    parser.add_argument("--fixtures", nargs="*", default=FIXTURES)
    parser.add_argument("--windows", type=int, default=16, help="of held-out text")
    parser.add_argument("--sequences", type=int, default=16, help="of the model's own text")
    parser.add_argument("--sensitivity", nargs="*", default=["fisher"], choices=["fisher", "probe"])
    parser.add_argument("--seed", type=int, default=0, help="of the random mixes")
    parser.add_argument("--memory", action="store_true", help="of Llama-3.1-8B, instead")
    parser.add_argument("--context", type=int, default=32_768, help="with --memory")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    main()
