"""KL at equal bytes on a real model: the product's own checkpoints beside what others make.

    python -m bitbudget.workers.native.preload -m benchmarks.real MODEL \
        --text HELD_OUT --calibration TEXT

Ours go the whole way of a user, `bitbudget allocate` and `bitbudget quantize`, at the bytes of
every peer and at the sizes of `--bits`; peers run by their own code (`benchmarks.peers`). All are
compared with the original on the same windows of held-out text that nothing else saw, and on what
the original itself writes, of a chat model its answers to prompts that no statistics saw. Processor
seconds are those of the whole processes, children included. A run that was killed goes on where it
stopped. `benchmarks.real_models` makes such a model from a package of the index.

A peer `llamacpp:Q4_K_M`, or `llamacpp:Q4_K_M:imatrix` with E[x^2] over the text that our statistics
are from, is what llama.cpp stores (`--llama-quantize` names its program), dequantized, at the bytes
of its GGUF. With `--runtimes stock bitbudget` ours is also made with the formats of our own
runtime, with `--efforts quick standard` at either effort. mlx-optiq and auto-round, peers
`optiq:4,8:5.0` and `autoround:3,4,8:4.5`, are programs of environments of their own (`--optiq`,
`--autoround`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from benchmarks.drawing import picture
from benchmarks.equal_kl import equal_kl_share
from benchmarks.gguf_files import dequantized, quantize, write_importance, write_model
from benchmarks.peer_programs import add_program_options, program_arguments
from benchmarks.quality_model import file_bytes
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.inventory import Inventory
from bitbudget.workers.evaluate import Evaluator, compare
from bitbudget.workers.evaluate.windows import digest
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.models.chat import chat_of
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.tokens import default_windows, sample_tokens

PEERS = (
    "uniform:3:64",
    "recipe:mixed_3_6",
    "uniform:4:64",
    "recipe:mixed_4_6",
    "gptq:4:64:6",
    "awq:4:64:4:32",
    "dwq:4:64:1e-4",
)
_SEED = 1
"""Of what the original writes here: no job of seed 0 was verified on it."""
BITS = (3.0, 3.5, 4.5, 5.5, 6.5)


@dataclass(frozen=True, slots=True)
class Ours:
    """A way of ours to make checkpoints of any size."""

    effort: Effort
    runtime: str

    @property
    def label(self) -> str:
        """What its rows are called, before " at " and a size."""
        effort = "" if self.effort is Effort.STANDARD else f" {self.effort}"
        return f"ours{effort}" + (" with own formats" if self.runtime == "bitbudget" else "")


@dataclass
class Bench:
    """One model, its held-out windows, and what was found so far."""

    folder: Path
    scratch: Path
    calibration: Path
    inventory: Inventory
    evaluation: Evaluator
    rows: dict[str, dict[str, Any]]

    def is_missing(self, name: str) -> bool:
        """Return whether a row is not there, or of other windows than those of this run."""
        row = self.rows.get(name)
        if row is None:
            return True
        windows = {"text": row, "rollouts": row["own"]}
        return any(
            found["windows_digest"] != digest(self.evaluation.windows[part])
            for part, found in windows.items()
        )

    @property
    def results(self) -> Path:
        """Where the rows are kept."""
        return self.scratch / "real.json"

    def add(self, name: str, folder: Path, **more: Any) -> None:
        """Evaluate the checkpoint in `folder` and keep its row."""
        self.keep(name, self.evaluation.sets_of(folder), file_bytes(folder), **more)

    def keep(self, name: str, sets: dict[str, Any], nbytes: int, **more: Any) -> None:
        """Keep the row of a report on both kinds of text."""
        report, own = sets["text"], sets["rollouts"]
        self.rows[name] = {
            "method": name,
            "bytes": nbytes,
            "bits_per_weight": 8 * nbytes / self.inventory.weights,
            "kl": report["kl_nats_per_token"],
            "interval": report["kl_interval_95"],
            "top1_agreement": report["top1_agreement"],
            "windows_digest": report["windows_digest"],
            "kl_per_window": report["kl_per_window"],
            "own": {
                "kl": own["kl_nats_per_token"],
                "interval": own["kl_interval_95"],
                "windows_digest": own["windows_digest"],
                "kl_per_window": own["kl_per_window"],
            },
            **more,
        }
        self.results.write_text(json.dumps(self.rows, indent=1) + "\n")
        print(f"{name}: {nbytes:,} bytes, KL {self.rows[name]['kl']:.4f}", flush=True)


def main() -> None:
    """Make and evaluate what is missing, then write table and picture."""
    options = _options()
    bench = _bench(options)
    for method in options.peers:
        if bench.is_missing(method) and method.startswith("llamacpp:"):
            _llamacpp(bench, method, options.llama_quantize)
        elif bench.is_missing(method):
            _peer(bench, method, options)
    made = [name for name in options.peers if name in bench.rows]
    sizes: dict[str, int] = {}
    for name in made:
        label, nbytes = f"at {_size_of(name)}", bench.rows[name]["bytes"]
        sizes[label] = min(nbytes, sizes.get(label, nbytes))
    sizes |= {f"{bits:g} bits": int(bits * bench.inventory.weights / 8) for bits in options.bits}
    ways = [Ours(*way) for way in itertools.product(options.efforts, options.runtimes)]
    for way, (label, nbytes) in itertools.product(ways, sizes.items()):
        name = f"{way.label} {label}"
        if bench.is_missing(name):
            _ours(bench, name, nbytes, way)
    (bench.scratch / "real.md").write_text(_page(bench, [way.label for way in ways]))
    rows = [row | {"method": name.partition(" at ")[0]} for name, row in bench.rows.items()]
    (bench.scratch / "real.svg").write_text(picture(bench.folder.name, rows))


def _bench(options: argparse.Namespace) -> Bench:
    options.scratch.mkdir(parents=True, exist_ok=True)
    evaluation = Evaluator(
        options.model, text=options.text, rollouts=options.own_windows, seed=_SEED
    )
    windows = evaluation.windows["text"]
    chosen = np.linspace(0, len(windows) - 1, min(options.windows, len(windows))).astype(int)
    evaluation.windows["text"] = windows[chosen]
    kept = options.scratch / "real.json"
    return Bench(
        options.model,
        options.scratch,
        options.calibration,
        build_inventory(open_checkpoint(options.model)),
        evaluation,
        json.loads(kept.read_text()) if kept.is_file() else {},
    )


def _peer(bench: Bench, method: str, options: argparse.Namespace) -> None:
    out = bench.scratch / "peers"
    command = [sys.executable, "-m", "benchmarks.peers", str(bench.folder)]
    command += [str(bench.calibration), str(out), method, *program_arguments(options)]
    seconds = None
    if not (out / method).is_dir():
        seconds = _run(command, bench.scratch)[1]
    if (out / method).is_dir():
        bench.add(method, out / method, cpu_seconds=seconds)


def _llamacpp(bench: Bench, method: str, program: Path) -> None:
    """Evaluate what llama.cpp stores of the model, dequantized, at the bytes of its GGUF."""
    folder = bench.scratch / "gguf"
    folder.mkdir(exist_ok=True)
    _, kind, *matrix = method.split(":")
    source, importance = folder / "source.gguf", folder / "imatrix.gguf"
    checkpoint = open_checkpoint(bench.folder)
    if not source.is_file():
        write_model(checkpoint, source)
    if matrix and not importance.is_file():
        write_importance(checkpoint, _own_text(bench), importance)
    file = folder / f"{method}.gguf"
    quantize(program, source, file, kind, importance if matrix else None)
    arrays, types = dequantized(bench.inventory, file)
    model = load_float32(bench.folder)
    model.load_weights([(f"{p}.weight", mx.array(a)) for p, a in arrays.items()], strict=False)
    sets = bench.evaluation.sets(model, method)
    bench.keep(method, sets, file.stat().st_size, types=types)
    print(f"{method}: {types}", flush=True)


def _own_text(bench: Bench) -> np.ndarray:
    """Return the windows that a job of seed 0 lets the original write for its statistics."""
    count = default_windows(bench.inventory.weights, Effort.STANDARD)
    chat = chat_of(bench.folder)
    return sample_tokens(bench.folder, count, seed=0, chat=chat, by_turns=True)


def _ours(bench: Bench, name: str, nbytes: int, way: Ours) -> None:
    folder = f"{name.partition(' at ')[0].replace(' ', '-')}-{nbytes}"
    manifest = bench.scratch / f"{folder}.manifest.json"
    out = bench.scratch / folder
    cli = [sys.executable, "-m", "bitbudget.app.cli"]
    arguments = ["allocate", str(bench.folder), "--budget", str(nbytes), "--sqnr-floor", "0"]
    arguments += ["--effort", way.effort, "--runtime", way.runtime]
    arguments += ["-o", str(manifest), "--json"]
    try:
        said, measuring = _run([*cli, *arguments], bench.scratch)
    except subprocess.CalledProcessError as error:
        print(f"{name}: {error}", flush=True)
        return
    certificate = json.loads(said)
    arguments = ["quantize", str(bench.folder), "--manifest", str(manifest), "-o", str(out)]
    coding = bench.rows.get(name, {}).get("coding", 0.0)
    if not out.is_dir():
        coding = _run([*cli, *arguments, "--json"], bench.scratch)[1]
    predicted = certificate["predicted_kl_nats_per_token"]
    more = {"predicted": predicted, "measuring": measuring, "coding": coding}
    bench.add(name, out, **more)


def _run(command: Sequence[str], scratch: Path) -> tuple[str, float]:
    """Return what a command printed and the processor seconds of it and its children."""
    environment = {**os.environ, "BITBUDGET_HOME": str((scratch / "home").resolve())}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (scratch / "log.txt").open("a") as log:
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _page(bench: Bench, labels: Sequence[str]) -> str:
    rows = sorted(bench.rows.items(), key=lambda item: item[1]["bytes"])
    lines = [
        f"{bench.folder.name}, {bench.inventory.weights:,} weights, {platform.platform()}",
        "KL in nats per token:",
        "",
        "| peer | against | bytes | bits | on text | ours | ratio | on own text | ours | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, peer in rows:
        for label in labels:
            ours = bench.rows.get(f"{label} at {_size_of(name)}")
            if ours is not None:
                size = f"{label} | {peer['bytes']:,} | {peer['bits_per_weight']:.2f}"
                pairs = _against(peer, ours), _against(peer["own"], ours["own"])
                lines.append(f"| {name} | {size} | {' | '.join(pairs)} |")
    lines += [
        "",
        "| ours | bytes | on text | on own text | predicted | measuring, CPU s | coding, CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows:
        if name.startswith("ours"):
            lines.append(
                f"| {name} | {row['bytes']:,} | {_interval(row)} | {_interval(row['own'])} |"
                f" {row['predicted']:.4f} | {row['measuring']:.0f} | {row['coding']:.0f} |"
            )
    return "\n".join([*lines, *_equal_kl(bench, labels), ""])


def _equal_kl(bench: Bench, labels: Sequence[str]) -> list[str]:
    """Return a table: in which share of the bytes of llama.cpp's types ours has their KL."""
    made = {
        label: ours
        for label in labels
        if (ours := [row for n, row in bench.rows.items() if n.startswith(f"{label} at ")])
    }
    peers = [row for row in bench.rows.values() if row["method"].startswith("llamacpp:")]
    if not (peers and made):
        return []
    lines = [
        "",
        f"| peer, whose KL is ours in this share of its bytes | {' | '.join(made)} |",
        f"|---|{'---|' * len(made)}",
    ]
    for peer in peers:
        shares = (equal_kl_share(rows, peer) for rows in made.values())
        lines.append(f"| {peer['method']} | {' | '.join(shares)} |")
    return lines


def _size_of(peer: str) -> str:
    """Return the peer whose bytes ours is made in: those without an importance matrix are fewer."""
    return peer.removesuffix(":imatrix")


def _against(peer: dict[str, Any], ours: dict[str, Any]) -> str:
    found = compare(ours, peer)
    low, high = found["ratio_interval_95"]
    return (
        f"{_interval(peer)} | {_interval(ours)} | **{found['ratio']:.2f}** [{low:.2f}, {high:.2f}]"
    )


def _interval(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['kl']:.4f} [{low:.4f}, {high:.4f}]"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True, help="held-out text")
    parser.add_argument("--calibration", type=Path, required=True, help="text for the peers")
    parser.add_argument("--peers", nargs="*", default=PEERS)
    parser.add_argument("--bits", nargs="*", type=float, default=BITS, help="sizes without a peer")
    parser.add_argument("--runtimes", nargs="*", choices=("stock", "bitbudget"), default=("stock",))
    parser.add_argument("--llama-quantize", type=Path, help="llama.cpp's program, for its peers")
    parser.add_argument(
        "--efforts", nargs="*", type=Effort, choices=Effort, default=(Effort.STANDARD,)
    )
    add_program_options(parser)
    parser.add_argument("--windows", type=int, default=28, help="of 256 held-out tokens")
    parser.add_argument(
        "--own-windows", type=int, default=16, help="of 256 tokens that the original writes"
    )
    parser.add_argument("--scratch", type=Path, default=Path("benchmarks/results/real"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
