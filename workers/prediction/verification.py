"""Is the prediction true? Random mixed allocations, predicted against measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

import numpy as np

from bitbudget.app.core.calibration import UNCALIBRATED, Calibration
from bitbudget.app.core.formats import KEEP, Format, Mode
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.measurement import Curve, Encoder, Measurement, Sensitivity, Verification
from bitbudget.app.core.relinearization import scaled
from bitbudget.workers.fisher.statistics import ModuleStatistics
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.prediction.calibration import CHECKPOINTS, calibrated, common_factor
from bitbudget.workers.prediction.measured_kl import JUDGING_ROLLOUTS, PROBING_ROLLOUTS, Trials

__all__ = ["ALLOCATIONS", "MOST_WEIGHTS", "VERIFYING_WINDOWS", "Verified", "agreement", "verify"]

ALLOCATIONS: Final = 8
MOST_WEIGHTS: Final = 50_000_000
"""Weights up to which whole checkpoints are measured, all allocations held at once; about as many
are quantized at a time of a larger model."""
VERIFYING_WINDOWS: Final = PROBING_ROLLOUTS + JUDGING_ROLLOUTS
_SEED: Final = 0x7E57
_CENTRES: Final = (3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0)
"""Mean bits of the allocations; a module draws its width within 1.5 bits of it."""


@dataclass(frozen=True, slots=True)
class Verified:
    """Curves scaled to what was measured, how they predict, what their sums are corrected by."""

    curves: dict[str, Curve]
    verification: Verification
    calibration: Calibration


def verify(
    checkpoint: Checkpoint,
    inventory: Inventory,
    curves: Mapping[str, Curve],
    encoder: Encoder,
    statistics: Mapping[str, ModuleStatistics],
    *,
    seed: int,
    windows: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Verified:
    """Return the curves calibrated by whole checkpoints, and how they predict 8 random allocations.

    `curves` by module path hold the prediction; `statistics` are those they were made with. KL is
    measured on fresh rollouts of the model, or on `VERIFYING_WINDOWS` of a text, int32
    (sequences, length). Each random allocation, of modules coded one by one,
    is predicted by curves that were scaled to the others. Whole checkpoints are coded as finished
    ones are, against the inputs that coded layers pass on.

    Of a model of more than `MOST_WEIGHTS` each allocation is of a random part of about that many,
    the rest is kept; no checkpoint is made whole, and curves are scaled to the parts.
    """
    parts = [_part(inventory, seed + i) for i in range(ALLOCATIONS)]
    kept = dict.fromkeys((module.path for module in inventory.modules), KEEP)
    picks = [
        kept | _draw(part, curves, centre, seed + i)
        for i, (part, centre) in enumerate(zip(parts, _CENTRES, strict=True))
    ]
    is_whole = inventory.weights <= MOST_WEIGHTS
    judging = JUDGING_ROLLOUTS if is_whole else 0
    steps, total = count(1), len(picks) + is_whole * CHECKPOINTS
    if progress is not None:
        progress(0, total)
    place = (checkpoint, inventory, encoder, statistics)
    trials = Trials(*place, seed=seed + _SEED, judging=judging, windows=windows)

    def told(kl: float) -> float:
        if progress is not None:
            progress(next(steps), total)
        return kl

    raw = [_predicted(curves, pick) for pick in picks]
    together = [picks] if is_whole else [[pick] for pick in picks]
    measured = [told(kl) for some in together for kl in trials.probed(some)]
    bits = [_bits(part, pick) for part, pick in zip(parts, picks, strict=True)]
    verification = agreement(_scaled_to_others(raw, measured), measured, bits)
    if not is_whole:
        factor = common_factor(raw, measured)
        found = {path: scaled(curve, factor) for path, curve in curves.items()}
        return Verified(found, verification, UNCALIBRATED)
    identity, listed = checkpoint.identity(), tuple(curves.values())
    measurement = Measurement(identity, inventory, encoder, Sensitivity.FISHER, listed)
    found, law = calibrated(measurement, lambda formats: told(trials.kl_as_written(formats)))
    return Verified(found, verification, law)


def _scaled_to_others(raw: list[float], measured: list[float]) -> list[float]:
    """Return each prediction times what the others were off by."""
    return [
        p * common_factor(raw[:i] + raw[i + 1 :], measured[:i] + measured[i + 1 :])
        for i, p in enumerate(raw)
    ]


def _part(inventory: Inventory, seed: int) -> tuple[Module, ...]:
    """Return all modules, of a large model those of random decision groups."""
    if inventory.weights <= MOST_WEIGHTS:
        return inventory.modules
    groups = list(inventory.decision_groups().values())
    drawn: list[Module] = []
    for index in np.random.default_rng(seed).permutation(len(groups)):
        drawn += groups[index]
        if sum(module.weights for module in drawn) >= MOST_WEIGHTS:
            break
    return tuple(drawn)


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


def _bits(modules: Sequence[Module], pick: Mapping[str, Format]) -> float:
    nbytes = sum(pick[m.path].data_bytes(m.shape, m.dtype) for m in modules)
    return 8 * nbytes / sum(module.weights for module in modules)
