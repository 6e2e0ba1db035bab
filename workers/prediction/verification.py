"""Is the prediction true? Whole checkpoints calibrate it, random mixed allocations test it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np

from bitbudget.app.core.calibration import Calibration, CheckpointKl
from bitbudget.app.core.effort import ALLOCATIONS, LARGE_WEIGHTS
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.measurement import Curve, Measurement, Sensitivity, Verification
from bitbudget.app.core.relinearization import scaled
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.workers.evaluate.reference import Reference
from bitbudget.workers.evaluate.teacher import TeacherBatch
from bitbudget.workers.prediction.agreement import agreement, typical_error
from bitbudget.workers.prediction.calibration import (
    Sizes,
    calibration_sizes,
    common_factor,
    law_through,
)
from bitbudget.workers.prediction.measured_kl import Coding, MeasuredKl, Trials

__all__ = ["Deployment", "Stage", "Verified", "verify"]

_FEW_SWEEPS: Final = 2
"""Of the descent, that code the checkpoints of a large model. Only that of the budget is coded in
sequence and run on whole windows: elsewhere all this takes little time."""
_FEW_TOKENS: Final = 128
"""The first of each window, that all others are run on."""
_SWEEPS_COST: Final = 1.03
"""KL of codes after two sweeps over that of the encoder's own eight (docs/quality.md)."""
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


@dataclass(frozen=True, slots=True)
class Deployment:
    """The budget that an answer is wanted for, and where its checkpoint is coded.

    `place` gives the folder in which the layers of these formats are coded in sequence and left.
    """

    request: AllocationRequest
    place: Callable[[Mapping[str, Format]], Path | None]


class Stage(StrEnum):
    """What a verification does, in its order; each takes a good part of the time."""

    CODING = "modules"
    RUNNING = "allocations"
    IN_SEQUENCE = "layers"


Progress = Callable[[int, int], None]
Stages = Callable[[Stage], AbstractContextManager[Progress]]


@contextmanager
def _unwatched(_stage: Stage) -> Iterator[Progress]:
    """Let a stage be told to nobody."""
    yield lambda _done, _total: None


def verify(
    coding: Coding,
    curves: Mapping[str, Curve],
    reference: Reference,
    *,
    seed: int,
    deployment: Deployment | None = None,
    memory_bytes: int | None = None,
    stages: Stages = _unwatched,
) -> Verified:
    """Return the curves calibrated by whole checkpoints, and how they predict random allocations.

    The curves of the layers, and of each module outside them, are scaled to what these lose alone
    at the size of `deployment`, or at 4.5 bits per weight. Then the optimal checkpoints of that
    size and of two others are measured on all windows of `reference`. Eight random allocations mix
    their formats, so that nothing more is coded; they are measured on the probing windows and
    compared with what the calibrated curves predict, to which they contribute nothing. What they
    are off by, and what the windows leave open, is the standard error of the calibration.
    `memory_bytes` is by default this machine's. `stages` gives the block that is told how far a
    stage is.
    """
    run = _Run(coding, curves, reference, seed=seed, deployment=deployment, stages=stages)
    with Trials(run.coding, reference, memory_bytes=memory_bytes) as trials:
        return run.verified(trials)


@dataclass(frozen=True, slots=True)
class _Checked:
    """Sums of curves and measured KL by size, and how predictions agree with random allocations.

    `errors` are the standard errors of the logarithm of what these lost.
    """

    cost: Mapping[float, float]
    alone: Mapping[float, MeasuredKl]
    verification: Verification
    errors: Sequence[float]


class _Run:
    def __init__(
        self,
        coding: Coding,
        curves: Mapping[str, Curve],
        reference: Reference,
        *,
        seed: int,
        deployment: Deployment | None,
        stages: Stages,
    ) -> None:
        self.is_large = coding.inventory.weights > LARGE_WEIGHTS
        few = replace(coding, sweeps=_FEW_SWEEPS) if self.is_large else coding
        self.coding, self.reference, self.deployment = few, reference, deployment
        self.measurement = Measurement(
            coding.checkpoint.identity(),
            coding.inventory,
            coding.encoder,
            Sensitivity.FISHER,
            tuple(curves.values()),
        )
        self.seed = seed
        self.parts = _parts(coding.inventory)
        self.sizes = self._allocated()
        levelled = len(self.parts) if self.sizes else 0
        self.total = (len(self.sizes.allocations) if self.sizes else 0) + ALLOCATIONS + levelled
        self.steps, self.stages = count(1), stages
        self.progress: Progress = lambda _done, _total: None

    def _allocated(self) -> Sizes | None:
        """Return the calibration checkpoints, by the curves as they are now."""
        request = None if self.deployment is None else self.deployment.request
        return calibration_sizes(self.measurement, request)

    def step(self) -> None:
        """Tell that one more allocation is measured."""
        self.progress(next(self.steps), self.total)

    def verified(self, trials: Trials) -> Verified:
        """Return everything, by trials on the reference."""
        if self.sizes is not None:
            self._code(trials, self.sizes)
        with self.stages(Stage.RUNNING) as self.progress:
            if self.sizes is not None:
                self._level_parts(trials, self.sizes)
                self.sizes = self._allocated()
            if self.sizes is None:
                return self._unquantized(trials)
            checked = self._checked(trials, self.sizes)
        return self._calibrated(trials, self.sizes, checked)

    def _code(self, trials: Trials, sizes: Sizes) -> None:
        """Code every module in the formats of all sizes: what these have in common is made once."""
        modules = self.coding.inventory.modules
        with self.stages(Stage.CODING) as progress:
            for done, _ in enumerate(trials.code(list(sizes.allocations.values())), 1):
                progress(done, len(modules))

    def _unquantized(self, trials: Trials) -> Verified:
        """Return the curves as they are, where no module can be quantized."""
        kept = dict.fromkeys((m.path for m in self.coding.inventory.modules), KEEP)
        measured = [self._measured(trials, kept, self.probing).mean for _ in range(ALLOCATIONS)]
        bits = [_bits(self.coding.inventory, kept)] * ALLOCATIONS
        found = {curve.path: curve for curve in self.measurement.curves}
        return Verified(found, agreement([0.0] * ALLOCATIONS, measured, bits), law_through([]))

    def _checked(self, trials: Trials, sizes: Sizes) -> _Checked:
        """Return what the sizes lose, and how predictions through them agree with what is run."""
        cost = {bits: self.measurement.cost(pick) for bits, pick in sizes.allocations.items()}
        deployed = self._measured(
            trials, sizes.allocations[sizes.deployed], self.reference.everything
        )
        alone = {
            bits: deployed if bits == sizes.deployed else self._in_short(trials, pick, deployed)
            for bits, pick in sizes.allocations.items()
        }
        law = law_through([CheckpointKl(cost[b], kl.mean) for b, kl in alone.items()])
        return _Checked(cost, alone, *self._verification(trials, sizes, law, deployed))

    def _calibrated(self, trials: Trials, sizes: Sizes, checked: _Checked) -> Verified:
        """Return the calibration: what is coded in sequence loses less than modules coded alone."""
        cost, alone = checked.cost, checked.alone
        spread = typical_error(checked.verification, checked.errors)
        coded = [sizes.deployed] if self.is_large else list(sizes.allocations)
        with self.stages(Stage.IN_SEQUENCE) as progress:
            written = {
                bits: self._written(trials, sizes, bits, _share_of(progress, done, len(coded)))
                for done, bits in enumerate(coded)
            }
        gain = common_factor([alone[b].mean for b in written], [w.mean for w in written.values()])
        checkpoints = {
            bits: CheckpointKl(
                cost[bits],
                written[bits].mean if bits in written else kl.mean * gain,
                float(np.hypot(kl.log_error, spread)),
            )
            for bits, kl in alone.items()
        }
        own = checkpoints[sizes.deployed]
        factor = common_factor([own.cost], [own.measured])
        found = {c.path: scaled(c, factor) for c in self.measurement.curves}
        moved = [replace(one, cost=one.cost * factor) for one in checkpoints.values()]
        return Verified(found, checked.verification, law_through(moved))

    def _level_parts(self, trials: Trials, sizes: Sizes) -> None:
        """Scale the curves of each part of the model to what its error is seen to cost alone.

        Codes are fitted to the noise of few tokens' statistics, the layers' more than an
        embedding's: on SmolLM2-135M measured over predicted KL falls from 2.8 to 1.8 the larger the
        embedding's share of the cost is.
        """
        formats = sizes.allocations[sizes.deployed]
        kept = dict.fromkeys(formats, KEEP)
        curves = {curve.path: curve for curve in self.measurement.curves}
        for paths in self.parts:
            own = {path: formats[path] for path in paths}
            lost = self._measured(trials, kept | own, self.probing).mean
            cost = sum(curves[path].point(format_).kl_nats for path, format_ in own.items())
            factor = common_factor([cost], [lost])
            curves |= {path: scaled(curves[path], factor) for path in paths}
        found = tuple(curves[curve.path] for curve in self.measurement.curves)
        self.measurement = replace(self.measurement, curves=found)

    @property
    def sweeps_cost(self) -> float:
        """KL of these codes over that of the deployed encoder's."""
        return _SWEEPS_COST if self.is_large else 1.0

    @property
    def probing(self) -> list[TeacherBatch]:
        """The windows for many comparisons of little."""
        return self._short(self.reference.probing)

    def _short(self, windows: Sequence[TeacherBatch]) -> list[TeacherBatch]:
        return [w.shortened(_FEW_TOKENS) for w in windows] if self.is_large else list(windows)

    def _measured(
        self, trials: Trials, pick: Mapping[str, Format], windows: Sequence[TeacherBatch]
    ) -> MeasuredKl:
        """Return what an allocation loses, coded by the deployed encoder's own sweeps."""
        found = trials.kl(pick, windows).over(self.sweeps_cost)
        self.step()
        return found

    def _in_short(
        self, trials: Trials, pick: Mapping[str, Format], deployed: MeasuredKl
    ) -> MeasuredKl:
        """Return what an allocation loses on all windows, from their first tokens.

        The level of these tokens is not that of all: it is corrected by what the deployed
        checkpoint lost on both (a ratio estimate).
        """
        windows = self._short(self.reference.everything)
        return self._measured(trials, pick, windows).over(_level(deployed, windows))

    def _written(self, trials: Trials, sizes: Sizes, bits: float, progress: Progress) -> MeasuredKl:
        formats, place = sizes.allocations[bits], None
        if self.deployment is not None and bits == sizes.deployed:
            place = self.deployment.place(formats)
        return trials.kl_as_written(formats, self.reference.everything, place, progress)

    def _verification(
        self, trials: Trials, sizes: Sizes, law: Calibration, deployed: MeasuredKl
    ) -> tuple[Verification, list[float]]:
        """Return predictions beside what is measured on the probing windows, and its log errors.

        The level of these few windows is corrected as that of the first tokens is.
        """
        level = _level(deployed, self.probing)
        found: list[tuple[float, float, float]] = []
        errors = []
        for pick in _mixed(self.coding.inventory, list(sizes.allocations.values()), self.seed):
            lost = self._measured(trials, pick, self.probing).over(level)
            predicted = law.kl(self.measurement.cost(pick))
            found.append((predicted, lost.mean, _bits(self.coding.inventory, pick)))
            errors.append(lost.log_error)
        return agreement(*zip(*found, strict=True)), errors


def _share_of(progress: Progress, before: int, count: int) -> Progress:
    """Return what tells how far the next of `count` equal parts is."""
    return lambda done, total: progress(before * total + done, count * total)


def _level(deployed: MeasuredKl, windows: Sequence[TeacherBatch]) -> float:
    """Return the KL of a checkpoint on some windows over that on all, 1 where it loses nothing."""
    some = deployed.on(windows).mean
    return some / deployed.mean if some > 0 and deployed.mean > 0 else 1.0


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


def _bits(inventory: Inventory, pick: Mapping[str, Format]) -> float:
    nbytes = sum(pick[m.path].data_bytes(m.shape, m.dtype) for m in inventory.modules)
    return 8 * nbytes / inventory.weights
