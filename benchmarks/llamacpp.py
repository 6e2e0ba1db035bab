"""KL at the bytes of llama.cpp's K-quants, and the bytes at their KL.

    python -m bitbudget.workers.native.preload -m benchmarks.llamacpp --llama-quantize PROGRAM

llama.cpp's own quantizer makes each type from a GGUF of the fixture, without an importance matrix
and with one: E[x^2] over the text that our statistics are from. What it stores is dequantized and
judged as ours is: in float32 on the same held-out windows, so that kernels have no part in it. Ours
gets the bytes of the GGUF, which has no tokenizer, for its safetensors, from the stock menu, with
two-level formats beside it and with Mirai's; of Q4_K_M also fewer, for the bytes at its KL. All of
ours are from one measurement of a fixture.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.equal_kl import equal_kl_share, ratio_of
from benchmarks.formats import FIXTURES, MENUS, WAY
from benchmarks.gguf_files import dequantized, quantize, write_importance, write_model
from benchmarks.quality_model import Model, judge, prepare
from bitbudget.app.core.formats import ALL_FORMATS
from bitbudget.app.core.runtime import Runtime

KINDS: Final = ("Q4_K_M", "Q3_K_M", "Q5_K_M", "Q6_K")
SHARES: Final = {"Q4_K_M": (0.8, 0.72)}
"""Shares of a type's bytes that ours is made in, too, for the bytes at its KL."""
SHARED_MENUS: Final = ("stock", "two-level")
"""Whose bytes at a peer's KL are looked for."""


def rows_of(name: str, model: Model, options: Any) -> Iterator[list[dict[str, Any]]]:
    """Yield what llama.cpp makes of a fixture in each type, and ours at those bytes and fewer."""
    folder = options.scratch / name / "gguf"
    folder.mkdir(parents=True, exist_ok=True)
    source, importance = folder / "source.gguf", folder / "imatrix.gguf"
    write_model(model.checkpoint, source)
    write_importance(model.checkpoint, np.load(options.scratch / name / "tokens.npy"), importance)
    for kind in options.kinds:
        key = {"fixture": name, "kind": kind}
        rows: list[dict[str, Any]] = []
        for label, matrix in ((kind, None), (f"{kind} imatrix", importance)):
            file = folder / f"{label}.gguf"
            said = quantize(options.llama_quantize, source, file, kind, matrix)
            rows.append(key | {"peer": label} | peer_row(model, kind, file, said))
        least = min(row["bytes"] for row in rows)
        whole, fewer = product((1.0,), MENUS), product(SHARES.get(kind, ()), SHARED_MENUS)
        for share, menu in chain(whole, fewer):
            ours = our_row(model, menu, int(share * least))
            if ours is not None:
                rows.append(key | {"share": share, "menu": menu} | ours)
        yield rows


def peer_row(model: Model, kind: str, file: Path, said: str) -> dict[str, Any]:
    """Return the row of a GGUF of llama.cpp, and in how many modules it took another type."""
    arrays, kinds = dequantized(model.inventory, file)
    row = judge(kind, file.stat().st_size, model, model.report_of(arrays))
    falls_back = sum("falling back" in line for line in said.splitlines())
    return _told(row | {"types": kinds, "fallbacks": falls_back})


def our_row(model: Model, menu: str, nbytes: int) -> dict[str, Any] | None:
    """Return ours from a menu within `nbytes`; None when nothing fits."""
    runtime = Runtime.STOCK if menu == "stock" else Runtime.BITBUDGET
    row = model.at(WAY, nbytes, formats=MENUS[menu], runtime=runtime)
    return None if row is None else _told(row)


def _told(row: dict[str, Any]) -> dict[str, Any]:
    print({key: value for key, value in row.items() if key != "kl_per_window"}, flush=True)
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the results as Markdown: ours over each type's KL, ours, and the bytes at its KL."""
    tables = (_ratios(rows), _sizes(rows), _shares(rows))
    return "\n\n".join("\n".join(lines) for lines in tables) + "\n"


def _ratios(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f"| fixture | llama.cpp | bytes | KL | {' | '.join(f'{m} over it' for m in MENUS)} |"
    yield f"|---|---|---|---|{'---|' * len(MENUS)}"
    for peer in _peers(rows):
        cells = [peer["fixture"], peer["peer"], f"{peer['bytes']:,}", _kl(peer)]
        for menu in MENUS:
            equal = [row for row in _ours(rows, peer, menu) if row["share"] == 1.0]
            cells.append(ratio_of(equal[0], peer) if equal else "nothing fits")
        yield f"| {' | '.join(cells)} |"


def _sizes(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield "| ours in the bytes of | menu | bytes | predicted | KL |"
    yield "|---|---|---|---|---|"
    for row in (row for row in rows if "menu" in row):
        place = f"{row['fixture']}, {row['share']:g} x {row['kind']}"
        numbers = f"{row['bytes']:,} | {row['predicted']:.5f} | {_kl(row)}"
        yield f"| {place} | {row['menu']} | {numbers} |"


def _shares(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    menus = " | ".join(SHARED_MENUS)
    yield f"| fixture | llama.cpp, whose KL is ours in this share of its bytes | {menus} |"
    yield f"|---|---|{'---|' * len(SHARED_MENUS)}"
    for peer in (peer for peer in _peers(rows) if peer["kind"] in SHARES):
        shares = (equal_kl_share(_ours(rows, peer, menu), peer) for menu in SHARED_MENUS)
        yield f"| {peer['fixture']} | {peer['peer']} | {' | '.join(shares)} |"


def _kl(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['kl']:.5f} [{low:.5f}, {high:.5f}]"


def _peers(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if "peer" in row]


def _ours(rows: Sequence[dict[str, Any]], peer: dict[str, Any], menu: str) -> list[dict[str, Any]]:
    """Return ours of a menu in the bytes of a peer and in fewer."""
    key = peer["fixture"], peer["kind"], menu
    return [row for row in rows if (row["fixture"], row["kind"], row.get("menu")) == key]


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
