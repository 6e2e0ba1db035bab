"""Is the prediction true? Whole checkpoints calibrate it, random mixed allocations test it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Final

import numpy as np

from bitbudget.app.core.calibration import Calibration, CheckpointKl
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.measurement import Curve, Measurement, Sensitivity, Verification
from bitbudget.app.core.relinearization import scaled
from bitbudget.workers.evaluate.reference import Reference
from bitbudget.workers.prediction.calibration import (
    MIDDLE_BITS,
    calibration_allocations,
    common_factor,
    law_through,
)
from bitbudget.workers.prediction.measured_kl import Coding, MeasuredKl, Trials

__all__ = ["ALLOCATIONS", "Verified", "agreement", "typical_error", "verify"]

ALLOCATIONS: Final = 8
WEIGHTS_OF_FEW_SWEEPS: Final = 50_000_000
"""From here on checkpoints are coded by `_FEW_SWEEPS` of the descent and only the middle one is
coded in sequence: elsewhere both take as long as the forward passes do, or less."""
_FEW_SWEEPS: Final = 2
_SWEEPS_COST: Final = 1.03
"""KL of codes after two sweeps over that of the encoder's own eight (docs/quality.md)."""
_LEAST_ERROR: Final = 0.02
"""No measurement of log KL counts as more precise than this."""
_SHARES: Final = (
    (0.75, 0.2, 0.05),
    (0.5, 0.4, 0.1),
    (0.3, 0.6, 0.1),
    (0.15, 0.75, 0.1),
    (0.05, 0.8, 0.15),
    (0.0, 0.8, 0.2),
    (0.0, 0.5, 0.5),
    (0.0, 0.2, 0.8),
)
"""Of each random allocation: the part of its decision groups that have the format of the small, the
middle and the large calibration checkpoint."""


@dataclass(frozen=True, slots=True)
class Verified:
    """Curves scaled to what was measured, how they predict, what their sums are corrected by."""

    curves: dict[str, Curve]
    verification: Verification
    calibration: Calibration


def verify(
    coding: Coding,
    curves: Mapping[str, Curve],
    reference: Reference,
    *,
    seed: int,
    memory_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Verified:
    """Return the curves calibrated by whole checkpoints, and how they predict random allocations.

    The curves of the layers, and of each module outside them, are scaled to what these lose alone
    at 4.5 bits per weight. Then the optimal checkpoints of three sizes are measured on all windows
    of `reference`. Eight random allocations mix their formats, so that nothing more is coded; they
    are measured on the probing windows and compared with what the calibrated curves predict, to
    which they contribute nothing. What they are off by, and what the windows leave open, is the
    standard error of the calibration. `memory_bytes` is by default this machine's.
    """
    run = _Run(coding, curves, reference, seed, progress or (lambda _done, _total: None))
    with Trials(run.coding, reference, memory_bytes=memory_bytes) as trials:
        return run.verified(trials)


class _Run:
    def __init__(
        self,
        coding: Coding,
        curves: Mapping[str, Curve],
        reference: Reference,
        seed: int,
        progress: Callable[[int, int], None],
    ) -> None:
        self.is_large = coding.inventory.weights > WEIGHTS_OF_FEW_SWEEPS
        few = replace(coding, sweeps=_FEW_SWEEPS) if self.is_large else coding
        self.coding, self.reference = few, reference
        self.measurement = Measurement(
            coding.checkpoint.identity(),
            coding.inventory,
            coding.encoder,
            Sensitivity.FISHER,
            tuple(curves.values()),
        )
        self.seed = seed
        self.parts = _parts(coding.inventory)
        self._allocate()
        self.as_written = [b for b in self.sizes if not self.is_large or b == MIDDLE_BITS]
        allocations = len(self.sizes) + len(self.picks) + len(self.as_written)
        self.total = allocations + (len(self.parts) if self.sizes else 0)
        self.steps, self.progress = count(), progress

    def _allocate(self) -> None:
        """Choose the calibration checkpoints and the random mixtures of their formats."""
        self.sizes = dict(calibration_allocations(self.measurement))
        self.picks = _mixed(self.coding.inventory, list(self.sizes.values()), self.seed)

    def step(self) -> None:
        """Tell that one more allocation is measured; the first time that none is."""
        self.progress(next(self.steps), self.total)

    def verified(self, trials: Trials) -> Verified:
        """Return everything, by trials on the reference."""
        self.step()
        if self.sizes:
            self._level_parts(trials)
        cost = {bits: self.measurement.cost(pick) for bits, pick in self.sizes.items()}
        alone = {bits: self._kl(trials, pick) for bits, pick in self.sizes.items()}
        law = law_through([CheckpointKl(cost[b], kl.mean) for b, kl in alone.items()])
        verification, errors = self._verification(trials, law, alone)
        spread = typical_error(verification, errors)
        written = {bits: self._written(trials, bits) for bits in self.as_written}
        gain = common_factor([alone[b].mean for b in written], [w.mean for w in written.values()])
        checkpoints = [
            CheckpointKl(
                cost[bits],
                written[bits].mean if bits in written else kl.mean * gain,
                float(np.hypot(kl.log_error, spread)),
            )
            for bits, kl in alone.items()
        ]
        middle = [c for b, c in zip(alone, checkpoints, strict=True) if b == MIDDLE_BITS]
        some = middle or checkpoints
        factor = common_factor([c.cost for c in some], [c.measured for c in some])
        found = {c.path: scaled(c, factor) for c in self.measurement.curves}
        moved = [replace(one, cost=one.cost * factor) for one in checkpoints]
        return Verified(found, verification, law_through(moved))

    def _level_parts(self, trials: Trials) -> None:
        """Scale the curves of each part of the model to what its error is seen to cost alone.

        Codes are fitted to the noise of few tokens' statistics, the layers' more than an
        embedding's: on SmolLM2-135M measured over predicted KL falls from 2.8 to 1.8 the larger the
        embedding's share of the cost is.
        """
        formats = self.sizes.get(MIDDLE_BITS) or next(iter(self.sizes.values()))
        kept = dict.fromkeys(formats, KEEP)
        curves = {curve.path: curve for curve in self.measurement.curves}
        for paths in self.parts:
            own = {path: formats[path] for path in paths}
            lost = trials.kl(kept | own, self.reference.probing).mean / self.sweeps_cost
            cost = sum(curves[path].point(format_).kl_nats for path, format_ in own.items())
            factor = common_factor([cost], [lost])
            curves |= {path: scaled(curves[path], factor) for path in paths}
            self.step()
        found = tuple(curves[curve.path] for curve in self.measurement.curves)
        self.measurement = replace(self.measurement, curves=found)
        self._allocate()

    @property
    def sweeps_cost(self) -> float:
        """KL of these codes over that of the deployed encoder's."""
        return _SWEEPS_COST if self.is_large else 1.0

    def _kl(self, trials: Trials, pick: Mapping[str, Format]) -> MeasuredKl:
        found = trials.kl(pick, self.reference.everything)
        self.step()
        return MeasuredKl(found.by_window / self.sweeps_cost)

    def _written(self, trials: Trials, bits: float) -> MeasuredKl:
        found = trials.kl_as_written(self.sizes[bits], self.reference.everything)
        self.step()
        return found

    def _verification(
        self, trials: Trials, law: Calibration, alone: Mapping[float, MeasuredKl]
    ) -> tuple[Verification, list[float]]:
        """Return predictions beside what is measured on the probing windows, and its log errors.

        The level of these few windows is not that of all: it is corrected by what the middle
        checkpoint lost on both (a ratio estimate).
        """
        few = sum(len(batch.ids) for batch in self.reference.probing)
        known = alone.get(MIDDLE_BITS) or next(iter(alone.values()), None)
        some = MeasuredKl(known.by_window[:few]).mean if known else 0.0
        level = known.mean / some if known and some > 0 else 1.0
        found: list[tuple[float, float, float]] = []
        errors = []
        for pick in self.picks:
            lost = trials.kl(pick, self.reference.probing)
            predicted = law.kl(self.measurement.cost(pick))
            bits = _bits(self.coding.inventory, pick)
            found.append((predicted, level * lost.mean / self.sweeps_cost, bits))
            errors.append(lost.log_error)
            self.step()
        return agreement(*zip(*found, strict=True)), errors


def _parts(inventory: Inventory) -> list[list[str]]:
    """Return the paths of all layers' modules, and those of each decision group outside them."""
    parts: dict[str, list[str]] = {}
    for name, modules in inventory.decision_groups().items():
        part = "" if any(module.layer is not None for module in modules) else name
        parts.setdefault(part, []).extend(module.path for module in modules)
    return list(parts.values())


def _mixed(
    inventory: Inventory, sizes: Sequence[Mapping[str, Format]], seed: int
) -> list[dict[str, Format]]:
    """Return allocations whose decision groups each have the format of one of the sizes."""
    kept = dict.fromkeys((module.path for module in inventory.modules), KEEP)
    if not sizes:
        return [kept] * ALLOCATIONS
    rng = np.random.default_rng(seed)
    found = []
    for shares in _SHARES:
        weights = np.array(shares[-len(sizes) :]) + 1e-9
        pick: dict[str, Format] = {}
        for modules in inventory.decision_groups().values():
            drawn = sizes[int(rng.choice(len(sizes), p=weights / weights.sum()))]
            pick |= {module.path: drawn[module.path] for module in modules}
        found.append(pick)
    return found


def typical_error(found: Verification, log_errors: Sequence[float]) -> float:
    """Return the root mean square of log(measured / predicted), weighted by precision.

    `log_errors` are the standard errors of log measured: at 8 bits a few tokens make most of the
    KL, and eight windows know it to 50 %.
    """
    rows = zip(found.predicted, found.measured, log_errors, strict=True)
    known = [(np.log(m / p), max(error, _LEAST_ERROR)) for p, m, error in rows if p * m > 0]
    if not known:
        return 0.0
    residuals, errors = np.asarray(known).T
    return float(np.sqrt(np.average(np.square(residuals), weights=1 / np.square(errors))))


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


def _bits(inventory: Inventory, pick: Mapping[str, Format]) -> float:
    nbytes = sum(pick[m.path].data_bytes(m.shape, m.dtype) for m in inventory.modules)
    return 8 * nbytes / inventory.weights
