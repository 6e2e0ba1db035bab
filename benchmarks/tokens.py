"""How much text to measure on, and of which kind: what a fixed allocation loses then.

    python -m bitbudget.workers.native.preload -m benchmarks.tokens MODEL \
        --text HELD_OUT --calibration TEXT --scratch DIR chat:4096 self:4096 text:4096

For each setting, a kind of text and a number of its tokens, statistics are taken, every module is
coded in one format by the compensated encoder, layers in sequence, and the result is compared with
the original on three texts that no statistics saw: held-out prose, what the model answers to
held-out prompts, and what it writes from its beginning token. Kinds are `chat`, the model's answers
to prompts, `self`, what it writes from its beginning token, `by-turns`, windows of both, on which a
chat model is measured, and `text`, the first tokens of `--calibration`. In one command fewer tokens
are the first windows of more. `predicted` is what the statistics say of the codes:
they were fitted to it, and no checkpoint has calibrated it. Processor seconds are those of
statistics and coding. A killed run goes on where it stopped; `tokens.md` in DIR is the table.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from bitbudget.app.core.calibration_text import OwnText
from bitbudget.app.core.encoders import Encoder
from bitbudget.app.core.formats import KEEP, Format, parse_format
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.workers.encoders.number_formats import dequantize
from bitbudget.workers.evaluate import Evaluator, compare
from bitbudget.workers.evaluate.cache import ReferenceCache
from bitbudget.workers.evaluate.windows import ROLLOUT_SEED, rollout_windows, text_windows
from bitbudget.workers.fisher import Statistics, collect_statistics
from bitbudget.workers.models import Checkpoint, build_inventory, open_checkpoint
from bitbudget.workers.models.chat import open_chat
from bitbudget.workers.quantize.coding import float32_weight, written_arrays
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.tokens import SEQUENCE_LENGTH, sample_tokens

SETS = ("prose", "chat", "self")
BY_TURNS = "by-turns"
TEXT = "text"


@dataclass
class Bench:
    """One model, the windows it is judged on, and what was found so far."""

    checkpoint: Checkpoint
    inventory: Inventory
    formats: dict[str, Format]
    evaluation: Evaluator
    scratch: Path
    calibration: Path
    rows: dict[str, dict[str, Any]]

    def keep(self, name: str, row: dict[str, Any]) -> None:
        """Keep the row of a setting, and write the table anew."""
        self.rows[name] = row
        (self.scratch / "tokens.json").write_text(json.dumps(self.rows, indent=1) + "\n")
        (self.scratch / "tokens.md").write_text(_page(self.rows))
        print(name, {part: round(row[part]["kl"], 4) for part in SETS}, flush=True)


def main() -> None:
    """Measure the settings that are missing."""
    options = _options()
    bench = _bench(options)
    settings = [setting.partition(":")[::2] for setting in options.settings]
    for kind, count in settings:
        if f"{kind}:{count}" not in bench.rows:
            most = max(int(tokens) for name, tokens in settings if name == kind)
            tokens, writing_s = _tokens(bench, kind, most)
            row = _measured(bench, kind, tokens[: int(count) // SEQUENCE_LENGTH])
            bench.keep(f"{kind}:{count}", {**row, "writing_s": writing_s})


def _bench(options: argparse.Namespace) -> Bench:
    scratch, folder = options.scratch, options.model
    scratch.mkdir(parents=True, exist_ok=True)
    checkpoint = open_checkpoint(folder)
    inventory = build_inventory(checkpoint)
    count, seed = options.windows, 0
    prose = text_windows(folder, options.text.read_text(), where=str(options.text))
    chosen = np.linspace(0, len(prose) - 1, min(count, len(prose))).astype(int)
    sets = {
        "prose": prose[chosen],
        "chat": _kept(
            scratch / "judge-chat.npy", lambda: rollout_windows(folder, count, seed=seed)
        ),
        "self": _kept(
            scratch / "judge-self.npy",
            lambda: sample_tokens(folder, count, seed=seed + ROLLOUT_SEED),
        ),
    }
    evaluation = Evaluator(
        folder, windows=prose[chosen], cache=ReferenceCache(scratch / "reference")
    )
    evaluation.windows = {name: windows[:count] for name, windows in sets.items()}
    kept = scratch / "tokens.json"
    return Bench(
        checkpoint,
        inventory,
        {m.path: _format(m, options) for m in inventory.modules},
        evaluation,
        scratch,
        options.calibration,
        json.loads(kept.read_text()) if kept.is_file() else {},
    )


def _format(module: Module, options: argparse.Namespace) -> Format:
    """Return the format of a module: that of the options in one layer of so many, else `keep`."""
    layer = re.search(r"\.layers\.(\d+)\.", module.path)
    if options.one_layer_in > 1 and (layer is None or int(layer[1]) % options.one_layer_in):
        return KEEP
    return module.legal_formats((options.format,))[0]


def _kept(path: Path, make: Any) -> np.ndarray:
    if not path.is_file():
        np.save(path, make())
    return np.asarray(np.load(path), np.int32)


def _measured(bench: Bench, kind: str, tokens: np.ndarray) -> dict[str, Any]:
    began = time.process_time()
    statistics = collect_statistics(bench.checkpoint.folder, tokens, seed=0)
    statistics_s, began = time.process_time() - began, time.process_time()
    model, predicted = _coded(bench, statistics)
    coding_s = time.process_time() - began
    found = {}
    for name, report in bench.evaluation.sets(model, f"{kind} {tokens.size}").items():
        found[name] = {
            "kl": report["kl_nats_per_token"],
            "interval": report["kl_interval_95"],
            "kl_per_window": report["kl_per_window"],
            "windows_digest": report["windows_digest"],
        }
    return {
        "kind": kind,
        "tokens": int(tokens.size),
        "predicted": predicted,
        "statistics_s": statistics_s,
        "coding_s": coding_s,
        **found,
    }


def _tokens(bench: Bench, kind: str, count: int) -> tuple[np.ndarray, float]:
    """Return int32 (windows, length) and the seconds that writing as many took, 0 for a text."""
    folder, rows = bench.checkpoint.folder, count // SEQUENCE_LENGTH
    if kind == TEXT:
        text = bench.calibration.read_text()
        return text_windows(folder, text, where=str(bench.calibration))[:rows], 0.0
    file, clock = bench.scratch / f"{kind}-{rows}.npy", bench.scratch / f"{kind}-{rows}.seconds"
    if not file.is_file():
        began = time.process_time()
        chat = None if kind == OwnText.SELF else open_chat(folder)
        tokens = sample_tokens(folder, rows, seed=0, chat=chat, by_turns=kind == BY_TURNS)
        clock.write_text(str(time.process_time() - began))
        np.save(file, tokens)
    return np.load(file), float(clock.read_text())


def _coded(bench: Bench, statistics: Statistics) -> tuple[Any, float]:
    """Return the original with its modules replaced by their coded values, and the KL predicted."""
    model = load_float32(bench.checkpoint.folder)
    costs = []
    for module, arrays in written_arrays(
        bench.checkpoint, bench.inventory, bench.formats, Encoder.YAQA, statistics
    ):
        value = dequantize(arrays, bench.formats[module.path], module.dtype)
        model.load_weights([(f"{module.path}.weight", mx.array(value))], strict=False)
        if module.path in statistics:
            error = value - float32_weight(bench.checkpoint, module)
            costs.append(statistics[module.path].kl_nats(error))
    return model, math.fsum(costs)


def _ratio(first: dict[str, Any], row: dict[str, Any]) -> str:
    found = compare(row, first)
    low, high = found["ratio_interval_95"]
    return f"{found['ratio']:.3f} [{low:.3f}, {high:.3f}]"


def _page(rows: dict[str, dict[str, Any]]) -> str:
    """Return the table; ratios are to the first setting, window by window."""
    head = "| text | tokens | predicted |" + "".join(f" {name} |" for name in SETS)
    head += " to the first |" * len(SETS) + " CPU-seconds |\n"
    lines = [head, "|" + "---|" * (head.count("|") - 1) + "\n"]
    first = next(iter(rows.values()))
    for row in rows.values():
        seconds = row["statistics_s"] + row["coding_s"]
        cells = [row["kind"], f"{row['tokens']:,}", f"{row['predicted']:.4f}"]
        for name in SETS:
            low, high = row[name]["interval"]
            cells.append(f"{row[name]['kl']:.4f} [{low:.4f}, {high:.4f}]")
        cells += [_ratio(first[name], row[name]) for name in SETS]
        lines.append("| " + " | ".join([*cells, f"{seconds:.0f}"]) + " |\n")
    return "".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("settings", nargs="+", help="chat, self or text, and tokens: chat:4096")
    parser.add_argument("--text", type=Path, required=True, help="held-out prose")
    parser.add_argument("--calibration", type=Path, required=True, help="another text")
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=24, help="of each held-out text")
    parser.add_argument(
        "--one-layer-in", type=int, default=1, help="code one layer of so many, and nothing else"
    )
    parser.add_argument("--format", type=parse_format, default=parse_format("affine4g64"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
