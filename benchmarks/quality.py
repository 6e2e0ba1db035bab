"""KL at equal bytes: ours by every encoder and sensitivity, beside what others make of a model.

`python -m benchmarks.quality` measures every fixture at every budget; a run that was killed goes on
where it stopped. Statistics come from text the model writes, those of the peers that need a text
from the calibration text; KL is measured on held-out text. A page with tables, a picture per
fixture and the JSON go to the output folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.drawing import picture
from benchmarks.peer_programs import add_program_options, program_arguments
from benchmarks.quality_model import Model, Ours, file_bytes, judge, prepare
from benchmarks.quality_page import page
from benchmarks.quality_recovered import Made, made_at
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.evaluate import compare

FIXTURES = ("tinyqwen3-dense", "tinyqwen3-moe", "babyllama105-llama", "stories260K-llama")
BUDGETS = (2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0)
QUICK_PEERS = (
    *(f"uniform:{bits}:{group}" for bits in (2, 3, 4, 5, 6) for group in (64, 32)),
    *(f"recipe:mixed_{name}" for name in ("2_6", "3_4", "3_6", "4_6")),
)
SLOW_PEERS = (
    "gptq:4:64:4",
    "gptq:4:64:6",
    "gptq:4:32:4",
    "dwq:4:64:1e-5",
    "dwq:4:64:1e-4",
    "dynamic:4:5:5.0",
    "dynamic:3:5:4.0",
    "optiq:4,8:5.0",
    "autoround:3,4,8:4.5",
)
DEFAULT = Ours(Encoder.YAQA, "fisher")
RECOVERED_AT = (
    *(f"uniform:{bits}:64" for bits in (3, 4, 5, 6)),
    "uniform:4:32",
    "gptq:4:64:4",
    "gptq:4:64:6",
    "gptq:4:32:4",
    "dwq:4:64:1e-4",
)
OTHERS = (
    Ours(Encoder.GPTQ, "fisher"),
    Ours(Encoder.CAREFUL, "fisher"),
    Ours(Encoder.MINMAX, "fisher"),
    Ours(Encoder.GPTQ, "alpha"),
    Ours(Encoder.MINMAX, "alpha"),
    Ours(Encoder.MINMAX, "probe"),
    Ours(Encoder.MINMAX, "weights"),
)


class Results:
    """What is known so far, written after every row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fixtures: dict[str, dict[str, dict[str, Any]]] = (
            json.loads(path.read_text()) if path.is_file() else {}
        )

    def has(self, fixture: str, part: str, name: str) -> bool:
        """Whether this row is there."""
        return name in self.fixtures.get(fixture, {}).get(part, {})

    def add(self, fixture: str, part: str, name: str, row: dict[str, Any]) -> None:
        """Add a row and write the file, whole or not at all."""
        self.fixtures.setdefault(fixture, {}).setdefault(part, {})[name] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".part")
        draft.write_text(json.dumps(self.fixtures, indent=1) + "\n")
        draft.replace(self.path)
        print(fixture, part, name, {k: row.get(k) for k in ("bytes", "kl", "error")}, flush=True)


def make_peers(model: Model, methods: Sequence[str], out: Path, options: Any) -> None:
    """Make the checkpoints of `methods` in a process of their own."""
    missing = [m for m in methods if not (out / m).is_dir() and not _error(out, m).is_file()]
    if not missing:
        return
    calibration = options.fixtures_dir / "text" / "tinystories_valid_calib.txt"
    command = [sys.executable, "-m", "benchmarks.peers", str(model.checkpoint.folder)]
    command += [str(calibration), str(out), *missing, *program_arguments(options)]
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log.txt").open("a") as log:
        try:
            subprocess.run(command, check=False, stderr=log, stdout=log, timeout=options.timeout)
        except subprocess.TimeoutExpired:
            _error(out, missing[-1]).write_text(f"not finished in {options.timeout} s\n")


def _error(out: Path, method: str) -> Path:
    return out / f"{method}.error"


def judge_peers(name: str, model: Model, methods: Sequence[str], out: Path, found: Results) -> None:
    """Evaluate every checkpoint in `out`."""
    for method in methods:
        if found.has(name, "peers", method):
            continue
        if (out / method).is_dir():
            report = model.evaluation.sets_of(out / method)["text"]
            found.add(name, "peers", method, judge(method, file_bytes(out / method), model, report))
        elif _error(out, method).is_file():
            error = {"method": method, "error": _error(out, method).read_text().strip()}
            found.add(name, "peers", method, error)


def run_peers(name: str, model: Model, options: Any, found: Results) -> None:
    """Make and evaluate what others make of the fixture."""
    out = options.scratch / name / "peers"
    groups = [options.quick_peers, *([method] for method in options.slow_peers)]
    for methods in groups:
        if any(not found.has(name, "peers", method) for method in methods):
            make_peers(model, methods, out, options)
            judge_peers(name, model, methods, out, found)


def run_ours(name: str, model: Model, options: Any, found: Results) -> None:
    """Evaluate ours at every budget: the default at all, the others at fewer."""
    fixed = sum(array.nbytes for array in model.inventory.passthrough)
    plan = [(DEFAULT, bits) for bits in options.budgets]
    plan += [(way, bits) for way in OTHERS for bits in options.other_budgets]
    for way, bits in plan:
        key = f"{way.label} {bits:g}"
        if not found.has(name, "ours", key):
            row = model.at(way, int(bits * model.inventory.weights / 8) + fixed)
            found.add(name, "ours", key, row or {"method": way.label, "error": "infeasible"})


def run_against(name: str, model: Model, found: Results) -> None:
    """Evaluate our default at the bytes of every peer."""
    for method, peer in found.fixtures.get(name, {}).get("peers", {}).items():
        if "kl" not in peer or found.has(name, "equal", method):
            continue
        row = model.at(DEFAULT, peer["bytes"])
        if row is not None:
            found.add(name, "equal", method, row | compared(row, peer))


def run_recovered(name: str, model: Model, options: Any, found: Results) -> None:
    """Evaluate our checkpoints at the bytes of peers, with recovery and without."""
    peers = found.fixtures.get(name, {}).get("peers", {})
    scratch = options.scratch / name / "recovered"
    for method in options.recover_at:
        peer = peers.get(method, {})
        for how in options.recover if "kl" in peer else ():
            made = Made(how, options.recover_seconds, peer["bytes"])
            key = f"{method} {how}"
            if not found.has(name, "recovered", key):
                row = made_at(model, made, scratch)
                found.add(name, "recovered", key, row | compared(row, peer))


def compared(ours: dict[str, Any], peer: dict[str, Any]) -> dict[str, Any]:
    """Return our KL over the peer's with its interval, on the same resamples."""
    return {"peer": peer["method"], "peer_kl": peer["kl"], **compare(ours, peer)}


def main() -> None:
    """Run what the command line asks for."""
    options = _options()
    found = Results(options.output / "quality.json")
    held_out = options.fixtures_dir / "text" / "tinystories_valid_heldout.txt"
    for part in options.parts:
        for name in options.fixtures:
            folder, scratch = options.fixtures_dir / name, options.scratch / name
            model = prepare(folder, held_out, scratch, options.windows)
            if part == "peers":
                run_peers(name, model, options, found)
            elif part == "ours":
                run_ours(name, model, options, found)
            elif part == "recovered":
                run_recovered(name, model, options, found)
            else:
                run_against(name, model, found)
    for name, parts in found.fixtures.items():
        rows = [row for part in ("peers", "equal", "ours") for row in parts.get(part, {}).values()]
        drawn = [row for row in rows if "kl" in row]
        (options.output / f"quality-{name}.svg").write_text(picture(name, drawn))
    (options.output / "quality.md").write_text(page(found.fixtures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fixtures-dir", type=Path, default=Path("../shared/fixtures"))
    parser.add_argument("--fixtures", nargs="*", default=FIXTURES)
    parser.add_argument("--budgets", nargs="*", type=float, default=BUDGETS)
    parser.add_argument("--other-budgets", nargs="*", type=float, default=(3.0, 4.0, 5.0))
    parser.add_argument("--quick-peers", nargs="*", default=QUICK_PEERS)
    parser.add_argument("--slow-peers", nargs="*", default=SLOW_PEERS)
    add_program_options(parser)
    parser.add_argument(
        "--parts",
        nargs="*",
        default=("peers", "ours", "equal"),
        help="of peers, ours, equal and recovered, which takes --recover-seconds for each row",
    )
    parser.add_argument("--recover", nargs="*", default=("none", "scales"))
    parser.add_argument("--recover-seconds", type=float, default=300.0, help="for each checkpoint")
    parser.add_argument(
        "--recover-at", nargs="*", default=RECOVERED_AT, help="peers whose bytes, of those measured"
    )
    parser.add_argument("--windows", type=int, default=64, help="of 256 held-out tokens")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for each slow peer")
    parser.add_argument("--scratch", type=Path, default=Path("benchmarks/results/scratch"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
