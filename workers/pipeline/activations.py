"""What an engine's rounding of activations costs a checkpoint, paired, and module by module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np

from bitbudget.app.contract.serving_reports import (
    ActivationReport,
    ActivationScores,
    ModuleActivations,
)
from bitbudget.app.contract.tasks import ActivationTask
from bitbudget.app.core.activations import ActivationFormat, runs_int8
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.formats import Format, Mode
from bitbudget.workers.files.folder import read_files
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.pipeline.run import Run

__all__ = ["activation_report"]

_COST_WINDOWS: Final = 16


def activation_report(task: ActivationTask, run: Run) -> ActivationReport:
    """Return the KL with and without rounded activations, with and without a rotation.

    InvalidModelError for a checkpoint in which nothing is quantized.
    """
    from bitbudget.workers.evaluate.activations import Rounded, quantized_paths  # noqa: PLC0415, all of mlx-lm
    from bitbudget.workers.evaluate.evaluation import Evaluator  # noqa: PLC0415, as above
    from bitbudget.workers.running.float32 import load_float32  # noqa: PLC0415, as above
    from bitbudget.workers.running.stock import check_opens  # noqa: PLC0415, as above

    format_, folder = ActivationFormat.parse(task.activations), Path(task.checkpoint)
    paths = quantized_paths(folder)
    if not paths:
        raise InvalidModelError(
            where=str(folder),
            found="no quantized module",
            expected="a checkpoint with quantized weights, which integer engines multiply",
            remedy="quantize the model first",
        )
    check_opens(folder, load_float32)
    reference = run[Checkpoint].folder
    judge = Evaluator(
        reference,
        text=None if task.text is None else Path(task.text),
        rollouts=task.rollouts,
        seed=task.seed,
    )
    name = next(iter(judge.windows))
    exact = judge.sets_of(folder)[name]
    both = {
        rotate: judge.sets(Rounded(folder, format_, rotate=rotate), str(folder))[name]
        for rotate in (False, True)
    }
    stored = _stored(folder, paths)
    return ActivationReport(
        activations=str(format_),
        evaluated_on=name,
        tokens=exact["tokens"],
        kl_nats_per_token=exact["kl_nats_per_token"],
        kl_interval_95=tuple(exact["kl_interval_95"]),
        rounded=_scores(both[False], exact, task.seed),
        rotated=_scores(both[True], exact, task.seed),
        int8_share=_share(folder, stored),
        modules=_modules(folder, judge.windows[name], format_, stored, task.seed),
        checkpoint=str(folder),
        reference=str(reference),
    )


def _scores(found: JsonObject, exact: JsonObject, seed: int) -> ActivationScores:
    from bitbudget.workers.evaluate.statistics import compare  # noqa: PLC0415, all of mlx-lm

    paired = compare(found, exact, seed=seed)
    return ActivationScores(
        kl_nats_per_token=found["kl_nats_per_token"],
        kl_interval_95=tuple(found["kl_interval_95"]),
        more_nats_per_token=paired["difference_nats_per_token"],
        more_interval_95=tuple(paired["difference_interval_95"]),
    )


def _stored(folder: Path, paths: frozenset[str]) -> dict[str, tuple[Format, int]]:
    """Return format and bytes of every quantized module."""
    config = json.loads((folder / "config.json").read_bytes())
    given = config.get("quantization") or config.get("quantization_config") or {}
    sizes = dict.fromkeys(paths, 0)
    for file in read_files(folder):
        for tensor in file.tensors:
            path = tensor.name.rpartition(".")[0]
            if path in sizes:
                sizes[path] += tensor.nbytes
    return {path: (_format(given, path), size) for path, size in sorted(sizes.items())}


def _format(given: JsonObject, path: str) -> Format:
    own = given.get(path)
    entry = {**given, **own} if isinstance(own, dict) else given
    return Format(
        Mode(entry.get("mode", Mode.AFFINE)), int(entry["bits"]), int(entry["group_size"])
    )


def _share(folder: Path, stored: dict[str, tuple[Format, int]]) -> float:
    total = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return sum(size for format_, size in stored.values() if runs_int8(format_)) / max(total, 1)


def _modules(
    folder: Path,
    windows: np.ndarray,
    format_: ActivationFormat,
    stored: dict[str, tuple[Format, int]],
    seed: int,
) -> dict[str, ModuleActivations]:
    from bitbudget.workers.evaluate.activation_costs import input_costs  # noqa: PLC0415, all of mlx-lm
    from bitbudget.workers.running.float32 import load_float32  # noqa: PLC0415, as above
    from bitbudget.workers.running.streaming_forward import fits_whole  # noqa: PLC0415, as above

    if not fits_whole(folder, copies=2):
        return {}
    model = load_float32(folder)
    costs = input_costs(model, windows[:_COST_WINDOWS], stored.keys(), format_, seed=seed)
    return {
        path: ModuleActivations(
            format=str(stored[path][0]),
            weight_bytes=stored[path][1],
            runs_int8=runs_int8(stored[path][0]),
            kl_nats_per_token=plain,
            rotated_kl_nats_per_token=rotated,
        )
        for path, (plain, rotated) in costs.items()
    }
