"""How long each piece of the work takes, from the model's size and the machine's speed.

Costs are counted in what `MachineSpeed` measures, so that they hold on other machines: operations
of a float32 matrix product, and weights that one thread codes with `careful`, which also stands for
all that a pass does beside products. The constants are processor seconds of SmolLM2-135M
(docs/performance.md) over the rates of the machine they are from: 333 GFLOP/s with the AMX unit,
125 without it, 2.6 ns for a weight.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace
from typing import Final

from bitbudget.app.core.effort import (
    ALLOCATIONS,
    EFFORTS,
    LARGE_WEIGHTS,
    PROBING_WINDOWS,
    ROWS_AT_ONCE,
    Effort,
    EffortPlan,
    calibration_windows,
    measures_rival,
    rollout_count,
    verifying_windows,
    writes_rollouts_beside,
)
from bitbudget.app.core.encoders import ENCODERS, Encoder
from bitbudget.app.core.machine_speed import TYPICAL, MachineSpeed

__all__ = [
    "VerificationTimes",
    "Work",
    "benchmark_s",
    "comparing_texts_s",
    "curves_s",
    "decoding_s",
    "evaluation_s",
    "is_previewed",
    "measuring_s",
    "preview_s",
    "quantizing_s",
    "relinearizing_s",
    "rollouts_s",
    "share",
    "statistics_s",
    "sweep_s",
    "text_s",
    "verification_s",
    "verification_times",
]


@dataclass(frozen=True, slots=True)
class _Cost:
    """What a pass takes: operations of products for each weight, and weights coded meanwhile.

    `coded` are those for each of at most `_MEASURED_WEIGHTS`. Beyond, what lies between products
    goes by the width of activations and the number of layers, as the square root of the weights.
    """

    operations: float
    coded: float

    def __add__(self, other: _Cost) -> _Cost:
        return _Cost(self.operations + other.operations, self.coded + other.coded)

    def __rmul__(self, times: float) -> _Cost:
        return _Cost(times * self.operations, times * self.coded)


_MEASURED_WEIGHTS: Final = 134_515_008
"""Of SmolLM2-135M."""
_POSITION: Final = _Cost(75.0, 0.105)
"""To write one position of all rows: products of few rows are bound by reading and packing the
weights."""
_ROW: Final = _Cost(3.2, 0.0043)
"""The same for each row."""
_FORWARD: Final = _Cost(2.2, 0.005)
"""To run a token forward, its weights made of codes first."""
_STATISTICS: Final = _Cost(9.4, 0.0275)
"""To run a token backward, second moments included; the writing left the forward pass."""
_MOMENTS: Final = 23.0
"""Coded weights per weight to finish and keep the statistics, however many tokens there were."""
_OPERATIONS_OF_CODED: Final = 380.0
"""Operations of a CPU's product in the time in which a weight is coded; a GPU is as much faster at
what lies between products as it is at those."""
_SWEEP: Final = 8.0
"""Coded weights per weight that measure its errors in all formats without statistics."""
_SAMPLING: Final = 19.0
"""The same to draw rows, with what is predicted of all."""
_MODULE_S: Final = 0.027
"""Seconds of a module's curve, however small it is."""
_TOKEN_S: Final = 1.2e-3
"""Seconds of a token in the backward pass, however small the model is."""
_POSITION_S: Final = 0.012
"""Seconds to write a position, however small the model is."""
_SAMPLED: Final = 24.0
"""The same to code a quarter of the rows in all formats by their weights alone."""
_COUPLED: Final = 354.0
"""The same with error feedback, of rows in all formats and the whole in two."""
_WHOLE: Final = 1890.0
"""The same of all rows in all formats."""
_DESCENTS: Final = 280.0
"""The same in the formats of three sizes by two sweeps, each module once."""
_RECODED: Final = 30.0
"""The same of what has another format once the parts of a model are levelled, on one thread."""
_IN_SEQUENCE: Final = 280.0
"""Coded weights per weight that code layers one after the other, on one thread."""
_BY_WEIGHTS: Final = 2.0
"""The same that code modules by their weights alone."""
_ROWS_OF_A_QUARTER: Final = 1 << 17
"""`row_weights` from which a quarter of the rows of most modules is drawn."""
_OPENING: Final = 1.5e9
"""Coded weights in the time in which a comparison begins: imports, tokenizer, the bandwidth."""
_LAYER: Final = 5e5
"""The same that a token takes in a layer beside its products."""
_TIMED_TOKENS: Final = 18
"""Tokens that a checkpoint reads and writes at the least when it is timed."""
_GROUPS: Final = 100
"""Decision groups of a usual model that is relinearized."""
_SIZES, _PARTS = 3, 2
_PART_OF_WINDOWS: Final = 0.5
"""What is run of them to measure all but the budget's own checkpoint of a large model."""
_SCORED: Final = 0.85
"""Time of a pass that everything is reported of over that of a verification's, of which the weights
are made of codes first."""
_PREVIEW_SHARE: Final = 0.2
"""Part of the time to the wanted answer that a first one may take unasked."""
_PREVIEW_FROM_S: Final = 60.0
"""Seconds that one waits for the wanted answer without a first one."""


@dataclass(frozen=True, slots=True)
class Work:
    """How much there is to do, as far as it is known, and on what machine.

    `weights` are those of all `modules`. `runs` says whether the model is run to measure it, and
    `variants` as how many: as it is, and rotated. `is_measured` says that the curves
    are there, `relinearizes` that errors are measured together, `preview` whether a first answer
    at quick effort comes before (None: where it is worth its time).

        Work(135_000_000, effort=Effort.QUICK).tokens  # 512
    """

    weights: int = 100_000_000
    modules: int = 200
    download_bytes: int = 0
    runs: bool = True
    variants: int = 1
    baseline: bool = False
    recover_seconds: float = 0.0
    effort: Effort = Effort.STANDARD
    encoder: Encoder = Encoder.YAQA
    is_measured: bool = False
    relinearizes: bool = False
    preview: bool | None = None
    speed: MachineSpeed = TYPICAL

    @property
    def plan(self) -> EffortPlan:
        """What the effort does."""
        return EFFORTS[self.effort]

    @property
    def windows(self) -> int:
        """Windows of the calibration tokens."""
        return calibration_windows(self.effort, self.weights, on_gpu=self.speed.on_gpu)

    @property
    def tokens(self) -> int:
        """Calibration tokens; none where weights alone are measured."""
        return self.windows * self.plan.window_tokens if self.runs else 0

    @property
    def compensates(self) -> bool:
        """Whether the encoder feeds errors back, which needs statistics."""
        return self.runs and ENCODERS[self.encoder].needs_statistics

    @property
    def verifies(self) -> bool:
        """Whether whole checkpoints are measured."""
        return self.runs and self.plan.verifies

    @property
    def is_large(self) -> bool:
        """Whether coding it takes longer than running it does."""
        return self.weights > LARGE_WEIGHTS

    @property
    def rollouts(self) -> int:
        """Windows that the model writes for checkpoints to be compared on."""
        needed = rollout_count(self.effort, self.weights)
        return needed if self.runs else self.plan.evaluated_windows

    @property
    def writes_at_once(self) -> bool:
        """Whether rollouts are written beside the calibration tokens."""
        return self.runs and writes_rollouts_beside(self.effort, self.windows, self.rollouts)

    @property
    def verifying_windows(self) -> int:
        """Windows that whole checkpoints are measured on."""
        return verifying_windows(self.weights)

    def operations_s(self, per_weight: float) -> float:
        """Return the seconds of so many operations for each weight."""
        return self.weights * per_weight / self.speed.flops_per_second

    def running_s(self, cost: _Cost) -> float:
        """Return the seconds of a pass."""
        coded = cost.coded * min(1.0, math.sqrt(_MEASURED_WEIGHTS / max(self.weights, 1)))
        if self.speed.on_gpu:
            return self.operations_s(cost.operations + _OPERATIONS_OF_CODED * coded)
        return self.operations_s(cost.operations) + self.coding_s(coded)

    def coding_s(self, per_weight: float, *, threads: int = 1) -> float:
        """Return the seconds in which each weight is coded so many times."""
        return self.weights * per_weight / self.speed.coded_per_second / threads


def share(part: float, *others: float) -> float:
    """Return what part of the sum of all of them `part` is."""
    total = part + sum(others)
    return part / total if total > 0 else 1.0


def text_s(work: Work) -> float:
    """Return how long the model writes its calibration tokens, and what it writes beside them."""
    beside = work.rollouts if work.writes_at_once else 0
    return _writing_s(work, work.windows + beside) if work.runs else 0.0


def _writing_s(work: Work, rows: int) -> float:
    batches = -(-rows // ROWS_AT_ONCE)
    position = _POSITION_S * batches + work.running_s(batches * _POSITION + rows * _ROW)
    return work.plan.window_tokens * position


def statistics_s(work: Work) -> float:
    """Return how long the Fisher statistics take."""
    if not work.runs:
        return 0.0
    passes = work.running_s(work.tokens * _STATISTICS) + _TOKEN_S * work.tokens
    return passes + work.coding_s(_MOMENTS)


def curves_s(work: Work) -> float:
    """Return how long the curves of all modules take."""
    if not work.runs:
        return sweep_s(work)
    rows, threads = work.plan.row_weights, work.speed.threads
    if work.compensates:
        return work.coding_s(_WHOLE if rows is None else _COUPLED, threads=threads)
    part = 4.0 if rows is None else min(1.0, rows / _ROWS_OF_A_QUARTER)
    coded = work.coding_s(_SAMPLING + _SAMPLED * part, threads=threads)
    return coded + _MODULE_S * work.modules / threads


def sweep_s(work: Work) -> float:
    """Return how long weights alone are measured in all formats."""
    return work.coding_s(_SWEEP, threads=work.speed.threads)


def measuring_s(work: Work) -> float:
    """Return how long a measurement takes, its verification included."""
    if work.is_measured:
        return 0.0
    sensitivities = text_s(work) + statistics_s(work)
    checked = rollouts_s(work) + verification_s(work) if work.verifies else 0.0
    return work.variants * (sensitivities + curves_s(work) + checked)


def is_previewed(work: Work) -> bool:
    """Return whether a first answer at quick effort comes before the wanted one.

    Unless it is asked for, that is where the wanted measurement takes more than a minute and the
    first one at most a fifth of that.
    """
    if not work.runs or work.is_measured or work.effort is Effort.QUICK:
        return False
    if work.preview is not None:
        return work.preview
    whole = measuring_s(work)
    return whole > _PREVIEW_FROM_S and measuring_s(_quick(work)) <= _PREVIEW_SHARE * whole


def preview_s(work: Work) -> float:
    """Return how long the first answer takes, 0 where there is none."""
    return measuring_s(_quick(work)) if is_previewed(work) else 0.0


def _quick(work: Work) -> Work:
    follows = work.encoder is work.plan.encoder
    encoder = EFFORTS[Effort.QUICK].encoder if follows else work.encoder
    return replace(work, effort=Effort.QUICK, encoder=encoder, variants=1)


def rollouts_s(work: Work) -> float:
    """Return how long the original writes what checkpoints are on, and predicts to verify."""
    verifying = work.verifying_windows if work.verifies else 0
    is_written = work.writes_at_once and not work.is_measured
    writing = 0.0 if is_written else _writing_s(work, work.rollouts)
    return writing + _SCORED * _forward_s(work, verifying)


@dataclass(frozen=True, slots=True)
class VerificationTimes:
    """Seconds of the stages of a verification, in their order."""

    coding_s: float
    running_s: float
    in_sequence_s: float


def verification_times(work: Work) -> VerificationTimes:
    """Return how long whole checkpoints and random allocations are coded and run."""
    windows = work.verifying_windows
    written, part = (1, _PART_OF_WINDOWS) if work.is_large else (_SIZES, 1.0)
    sizes = (1 + (_SIZES - 1) * part) * windows
    passes = sizes + (ALLOCATIONS + _PARTS) * PROBING_WINDOWS * part
    return VerificationTimes(
        coding_s=work.coding_s(_DESCENTS, threads=work.speed.threads),
        running_s=_forward_s(work, passes) + work.coding_s(_RECODED),
        in_sequence_s=written * (work.coding_s(_IN_SEQUENCE) + _forward_s(work, windows)),
    )


def verification_s(work: Work) -> float:
    """Return how long a verification takes in all, 0 where there is none."""
    return sum(astuple(verification_times(work))) if work.verifies else 0.0


def _forward_s(work: Work, windows: float) -> float:
    return work.running_s(windows * work.plan.window_tokens * _FORWARD)


def relinearizing_s(work: Work) -> float:
    """Return how long errors are measured together, where bits are few or a request asks."""
    passes = 2 * _GROUPS * PROBING_WINDOWS + 4 * work.verifying_windows
    return _forward_s(work, passes) if work.relinearizes else 0.0


def quantizing_s(work: Work) -> float:
    """Return how long the checkpoint of an allocation is coded and written.

    One that was measured to calibrate its own prediction is coded already.
    """
    written = work.weights / work.speed.disk_bytes_per_second
    if work.verifies and not work.is_measured and not work.relinearizes:
        return written
    return written + _coding_s(work)


def _coding_s(work: Work) -> float:
    return work.coding_s(_IN_SEQUENCE if work.compensates else _BY_WEIGHTS)


def comparing_texts_s(weights: int, layers: int, tokens: int, speed: MachineSpeed) -> float:
    """Return how long an original and its checkpoint take over so many tokens each, both loaded.

    `weights` are those that a token is multiplied by.
    """
    both = (decoding_s(weights, layers, speed, is_packed=packed) for packed in (False, True))
    return _OPENING / speed.coded_per_second + tokens * sum(both)


def decoding_s(weights: int, layers: int, speed: MachineSpeed, *, is_packed: bool) -> float:
    """Return how long the arithmetic of one decoded token takes, of packed weights or of bf16.

    `weights` are those that a token is multiplied by.
    """
    rate = speed.packed_per_second if is_packed else speed.dense_per_second
    return weights / rate + layers * _LAYER / speed.coded_per_second


def benchmark_s(work: Work) -> float:
    """Return how long a checkpoint is timed, 0 at an effort that does without."""
    seconds = work.plan.benchmark_seconds
    if seconds == 0 or work.speed.on_gpu:
        return seconds
    return max(seconds, _TIMED_TOKENS * work.weights / work.speed.packed_per_second)


def evaluation_s(work: Work) -> float:
    """Return how long a checkpoint and the rivals of a baseline are compared with the original."""
    again = work.baseline and measures_rival(work.effort, work.weights)
    checkpoints = 1 + work.baseline + again
    scored = _SCORED * _forward_s(work, work.plan.evaluated_windows)
    rollouts = 0.0 if work.verifies and not work.is_measured else rollouts_s(work)
    coded = work.baseline * work.coding_s(_BY_WEIGHTS) + again * _coding_s(work)
    return rollouts + (1 + checkpoints) * scored + coded
