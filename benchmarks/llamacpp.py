"""KL at the bytes of llama.cpp's K-quants, and at a share of them.

    python -m bitbudget.workers.native.preload -m benchmarks.llamacpp --llama-quantize PROGRAM

llama.cpp's own quantizer makes each type from a GGUF of the fixture, without an importance matrix
and with one: E[x^2] over the text that our statistics are from. What it stores is dequantized and
judged as ours is: in float32 on the same held-out windows, so that kernels have no part in it. Ours
gets the bytes of the GGUF, which has no tokenizer, for its safetensors, from the stock menu and
with two-level formats beside it; of Q4_K_M also fewer, for the bytes at its KL.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.formats import FIXTURES, MENUS, WAY
from benchmarks.gguf_files import dequantized, quantize, write_importance, write_model
from benchmarks.quality_model import Model, judge, prepare
from bitbudget.app.core.formats import ALL_FORMATS
from bitbudget.app.core.runtime import Runtime
from bitbudget.workers.evaluate import compare

KINDS: Final = ("Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K")
OURS: Final = ("stock", "two-level")
SHARES: Final = {"Q4_K_M": (0.8, 0.72)}
"""Shares of a type's bytes that ours is made in, too."""


def rows_of(name: str, model: Model, options: Any) -> Iterator[list[dict[str, Any]]]:
    """Yield what llama.cpp makes of a fixture in each type, and ours at those bytes."""
    folder = options.scratch / name / "gguf"
    folder.mkdir(parents=True, exist_ok=True)
    source, importance = folder / "source.gguf", folder / "imatrix.gguf"
    write_model(model.checkpoint, source)
    write_importance(model.checkpoint, np.load(options.scratch / name / "tokens.npy"), importance)
    for kind in options.kinds:
        peers: list[dict[str, Any]] = []
        for label, matrix in ((kind, None), (f"{kind} imatrix", importance)):
            file = folder / f"{label}.gguf"
            said = quantize(options.llama_quantize, source, file, kind, matrix)
            peer = {"fixture": name, "peer": label, "share": 1.0, "menu": None}
            peers.append(peer | peer_row(model, kind, file, said))
            _say(peers[-1])
        rows = [*peers]
        least = min(peer["bytes"] for peer in peers)
        for share, menu in itertools.product((1.0, *SHARES.get(kind, ())), OURS):
            ours = our_row(model, menu, int(share * least))
            if ours is None:
                continue
            for peer in peers:
                row = {"fixture": name, "peer": peer["peer"], "share": share, "menu": menu}
                rows.append(row | ours | compare(ours, peer))
                _say(rows[-1])
        yield rows


def peer_row(model: Model, kind: str, file: Path, said: str) -> dict[str, Any]:
    """Return the row of a GGUF of llama.cpp, and in how many modules it took another type."""
    arrays, kinds = dequantized(model.inventory, file)
    row = judge(kind, file.stat().st_size, model, model.report_of(arrays))
    falls_back = sum("falling back" in line for line in said.splitlines())
    return row | {"types": kinds, "fallbacks": falls_back}


def our_row(model: Model, menu: str, nbytes: int) -> dict[str, Any] | None:
    """Return ours from a menu within `nbytes`; None when nothing fits."""
    runtime = Runtime.STOCK if menu == "stock" else Runtime.BITBUDGET
    return model.at(WAY, nbytes, formats=MENUS[menu], runtime=runtime)


def equal_kl_share(rows: Sequence[dict[str, Any]], peer: dict[str, Any]) -> str:
    """Return the share of a peer's bytes at which ours has its KL, or a bound for it.

    Interpolated in the logarithm of KL between the two shares around it.
    """
    points = sorted((row["bytes"] / peer["bytes"], row["kl"]) for row in rows)
    if points[0][1] <= peer["kl"]:
        return f"below {points[0][0]:.2f}"
    for (low, above), (high, below) in itertools.pairwise(points):
        if below <= peer["kl"] <= above:
            part = math.log(above / peer["kl"]) / math.log(above / below)
            return f"{low + (high - low) * part:.2f}"
    return f"above {points[-1][0]:.2f}"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the results as Markdown: each type, and ours over its KL."""
    lines = [
        "| fixture | llama.cpp | bytes | KL | stock menu over it | two-level over it |",
        "|---|---|---|---|---|---|",
    ]
    for peer in (row for row in rows if row["menu"] is None):
        low, high = peer["interval"]
        ours = [row for row in _ours(rows, peer) if row["share"] == 1.0]
        ratios = {row["menu"]: _ratio(row) for row in ours}
        lines.append(
            f"| {peer['fixture']} | {peer['peer']} | {peer['bytes']:,} |"
            f" {peer['kl']:.4f} [{low:.4f}, {high:.4f}] |"
            f" {' | '.join(ratios.get(menu, '') for menu in OURS)} |"
        )
    lines += ["", "| fixture | its KL is ours in this share of its bytes | stock | two-level |"]
    lines += ["|---|---|---|---|"]
    for peer in (row for row in rows if row["menu"] is None):
        if peer["method"] in SHARES:
            ours = _ours(rows, peer)
            by_menu = ([row for row in ours if row["menu"] == menu] for menu in OURS)
            shares = (equal_kl_share(found, peer) for found in by_menu)
            lines.append(f"| {peer['fixture']} | {peer['peer']} | {' | '.join(shares)} |")
    return "\n".join([*lines, ""])


def _ours(rows: Sequence[dict[str, Any]], peer: dict[str, Any]) -> list[dict[str, Any]]:
    key = peer["fixture"], peer["peer"]
    return [r for r in rows if r["menu"] is not None and (r["fixture"], r["peer"]) == key]


def _ratio(row: dict[str, Any]) -> str:
    low, high = row["ratio_interval_95"]
    return f"{row['ratio']:.2f} [{low:.2f}, {high:.2f}]"


def _say(row: dict[str, Any]) -> None:
    shown = ("fixture", "peer", "share", "menu", "bytes", "kl", "ratio", "types", "fallbacks")
    print({key: row[key] for key in shown if key in row}, flush=True)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-quantize", type=Path, required=True, help="llama.cpp's program")
    parser.add_argument("--fixtures-dir", type=Path, default=Path("../shared/fixtures"))
    parser.add_argument("--fixtures", nargs="*", default=FIXTURES)
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--windows", type=int, default=64, help="of 256 held-out tokens")
    parser.add_argument("--scratch", type=Path, default=Path("benchmarks/results/scratch"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    held_out = options.fixtures_dir / "text" / "tinystories_valid_heldout.txt"
    options.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in options.fixtures:
        scratch = options.scratch / name
        model = prepare(options.fixtures_dir / name, held_out, scratch, options.windows)
        model.candidates, model.kept = ALL_FORMATS, scratch
        for found in rows_of(name, model, options):
            rows += found
            (options.output / "llamacpp.json").write_text(json.dumps(rows, indent=1) + "\n")
            said = f"{platform.platform()}, {platform.processor() or platform.machine()}\n\n"
            (options.output / "llamacpp.md").write_text(said + table(rows))


if __name__ == "__main__":
    main()
