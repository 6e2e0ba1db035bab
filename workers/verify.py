"""Is the prediction true? Random mixed allocations, predicted against measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import mlx.core as mx
import numpy as np

from app.core.allocate import allocate
from app.core.ends import scaled
from app.core.errors import InfeasibleBudgetError
from app.core.formats import KEEP, Format, Mode
from app.core.inventory import Inventory, Module
from app.core.measurement import Curve, Encoder, Measurement, Sensitivity, Verification
from app.core.requests import AllocationRequest
from workers.calibrate import common_factor
from workers.coding import coded_model, coded_weights, float32_weight
from workers.evaluate import Evaluation
from workers.fisher.statistics import ModuleStatistics
from workers.models import Checkpoint

__all__ = ["ALLOCATIONS", "MOST_WEIGHTS", "agreement", "verify"]

ALLOCATIONS: Final = 8
MOST_WEIGHTS: Final = 50_000_000
"""Weights up to which a measurement is verified by default: all allocations are held at once."""
_ROLLOUTS: Final = 8
_LEVEL_ROLLOUTS: Final = 32
"""Rollouts that a whole checkpoint is measured on: 8 alone put the level 5 % (one sigma) off."""
_LEVEL_BITS: Final = 4.5
_SEED: Final = 0x7E57
_CENTRES: Final = (3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0)
"""Mean bits of the allocations; a module draws its width within 1.5 bits of it."""


def verify(
    checkpoint: Checkpoint,
    inventory: Inventory,
    curves: Mapping[str, Curve],
    encoder: Encoder,
    statistics: Mapping[str, ModuleStatistics],
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Curve], Verification]:
    """Return the curves scaled to what was measured, and how they predict 8 random allocations.

    `curves` by module path hold the prediction; `statistics` are those they were made with. KL is
    measured on fresh rollouts of the model. Each random allocation, of modules coded one by one,
    is predicted by curves that were scaled to the others.

    What is allocated at 4.5 bits per weight is coded as a finished checkpoint is, against the
    inputs that coded layers pass on, and measured on 32 rollouts: all curves are scaled by what
    that is over its prediction. One factor for all leaves the ranking of allocations as it is; a
    correction per width trades widths wrongly and costs more than it explains.
    """
    picks = [
        _draw(inventory.modules, curves, centre, seed + i) for i, centre in enumerate(_CENTRES)
    ]
    evaluation = Evaluation(checkpoint.folder, rollouts=_LEVEL_ROLLOUTS, seed=seed + _SEED)
    rollouts = evaluation.windows["rollouts"]
    evaluation.windows = {"few": rollouts[:_ROLLOUTS], "more": rollouts[_ROLLOUTS:]}
    weights: list[dict[str, mx.array]] = [{} for _ in picks]
    for module in inventory.modules:
        values = float32_weight(checkpoint, module)
        wanted = {pick[module.path] for pick in picks} - {KEEP}
        coded = coded_weights(module, values, sorted(wanted), encoder, statistics.get(module.path))
        for pick, chosen in zip(picks, weights, strict=True):
            chosen[f"{module.path}.weight"] = mx.array(coded.get(pick[module.path], values))
    measured = []
    original = evaluation.original
    kept = {f"{m.path}.weight": mx.array(float32_weight(checkpoint, m)) for m in inventory.modules}
    evaluation.taught  # noqa: B018 - the original's pass comes before its weights are replaced
    for index, chosen in enumerate(weights):
        original.load_weights(list(chosen.items()), strict=False)
        report = evaluation.sets(original, f"random allocation {index}", ("few",))
        measured.append(report["few"]["kl_nats_per_token"])
        if progress is not None:
            progress(index + 1, len(weights))
    raw = [_predicted(curves, pick) for pick in picks]
    predicted = [
        p * common_factor(raw[:i] + raw[i + 1 :], measured[:i] + measured[i + 1 :])
        for i, p in enumerate(raw)
    ]
    bits = [_bits(inventory, pick) for pick in picks]
    factor = common_factor(raw, measured)
    formats = _allocated(checkpoint, inventory, curves, encoder)
    if formats:
        whole = coded_model(checkpoint, inventory, formats, encoder, statistics)
        arrays = [(f"{path}.weight", mx.array(values)) for path, values in whole.items()]
        original.load_weights(arrays, strict=False)
        level = _over_all(evaluation.sets(original, "a whole checkpoint"))
        factor = common_factor([_predicted(curves, formats)], [level])
    found = {path: scaled(curve, factor) for path, curve in curves.items()}
    original.load_weights(list(kept.items()), strict=False)
    return found, agreement(predicted, measured, bits)


def _allocated(
    checkpoint: Checkpoint, inventory: Inventory, curves: Mapping[str, Curve], encoder: Encoder
) -> Mapping[str, Format]:
    """Return the allocation of 4.5 bits per weight, empty where that is infeasible."""
    nbytes = sum(array.nbytes for array in inventory.passthrough)
    for module in inventory.modules:
        can = set(module.legal_formats()) - {KEEP}
        kept = KEEP.data_bytes(module.shape, module.dtype)
        nbytes += int(_LEVEL_BITS * module.weights / 8) if can else kept
    measurement = Measurement(
        checkpoint.identity(), inventory, encoder, Sensitivity.FISHER, tuple(curves.values()), ""
    )
    try:
        return allocate(measurement, AllocationRequest(budget=nbytes, sqnr_floor_db=0)).formats
    except InfeasibleBudgetError:
        return {}


def _over_all(report: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the mean KL over the windows of every set."""
    windows = sum(part["windows"] for part in report.values())
    total = sum(part["kl_nats_per_token"] * part["windows"] for part in report.values())
    return float(total / windows)


def _predicted(curves: Mapping[str, Curve], pick: Mapping[str, Format]) -> float:
    return sum(curves[path].point(format_).kl_nats for path, format_ in pick.items())


def agreement(
    predicted: Sequence[float], measured: Sequence[float], bits: Sequence[float]
) -> Verification:
    """Return R^2 of the prediction as it stands, rank correlation, and slope through the origin."""
    x, y = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    spread = float(np.square(y - y.mean()).sum()) or 1e-30
    ranks = [np.argsort(np.argsort(values)) for values in (x, y)]
    return Verification(
        tuple(predicted),
        tuple(measured),
        tuple(bits),
        r_squared=1 - float(np.square(y - x).sum()) / spread,
        spearman=float(np.corrcoef(ranks[0], ranks[1])[0, 1]),
        slope=float(x @ y / max(float(x @ x), 1e-30)),
    )


def _draw(
    modules: Sequence[Module], curves: Mapping[str, Curve], centre: float, seed: int
) -> dict[str, Format]:
    rng = np.random.default_rng(seed)
    groups: dict[str, int] = {}
    picks = {}
    for module in modules:
        offered = [point.format for point in curves[module.path].points]
        near = [f for f in offered if f.mode is Mode.AFFINE and abs(f.bits - centre) <= 1.5]  # noqa: PLR2004
        draw = groups.setdefault(module.decision_group, int(rng.integers(1 << 30)))
        picks[module.path] = near[draw % len(near)] if near else KEEP
    return picks


def _bits(inventory: Inventory, pick: Mapping[str, Format]) -> float:
    nbytes = sum(pick[m.path].data_bytes(m.shape, m.dtype) for m in inventory.modules)
    return 8 * nbytes / inventory.weights
