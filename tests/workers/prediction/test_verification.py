"""Predictions against measurements on random allocations of the sample model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

from bitbudget.app.core.formats import KEEP, Format, parse_format
from bitbudget.app.core.measurement import (
    KEEP_POINT,
    Curve,
    CurvePoint,
    Encoder,
    Measurement,
    Sensitivity,
)
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.solving import allocate_in_time
from bitbudget.workers.curves.exact import kl_curve
from bitbudget.workers.evaluate.reference import Reference, job_rollouts
from bitbudget.workers.fisher import Statistics, collect_statistics
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.native.arrays import as_float32
from bitbudget.workers.prediction import verification
from bitbudget.workers.prediction.measured_kl import Coding
from bitbudget.workers.prediction.verification import (
    Deployment,
    Progress,
    Stage,
    Verified,
    verify,
)
from bitbudget.workers.running.tokens import sample_tokens
from tests.workers.models.tiny import write_tiny

FORMATS = [parse_format(f"affine{bits}g64") for bits in (2, 3, 4, 6, 8)]
Step = tuple[Stage, int, int]


def noted_in(told: list[Step]) -> Callable[[Stage], AbstractContextManager[Progress]]:
    """Return stages that note in `told` what they are told."""

    @contextmanager
    def stages(stage: Stage) -> Iterator[Progress]:
        yield lambda done, total: told.append((stage, done, total))

    return stages


@pytest.fixture(scope="module")
def statistics(sample_model: Path) -> Statistics:
    tokens = sample_tokens(sample_model, 16, 128, seed=0)
    return collect_statistics(sample_model, tokens, seed=0)


@pytest.fixture(scope="module")
def coding(sample_model: Path, statistics: Statistics) -> Coding:
    checkpoint = open_checkpoint(sample_model)
    return Coding(checkpoint, build_inventory(checkpoint), Encoder.YAQA, statistics)


@pytest.fixture(scope="module")
def curves(coding: Coding) -> dict[str, Curve]:
    return curves_of(coding)


def curves_of(coding: Coding) -> dict[str, Curve]:
    """Return every module's curve of FORMATS."""
    curves = {}
    for module in coding.inventory.modules:
        parts = coding.checkpoint.parts(module.path)
        weight = np.stack([as_float32(part, module.dtype) for part in parts])
        points = kl_curve(
            module,
            weight.reshape(module.shape),
            (*FORMATS, KEEP),
            coding.encoder,
            coding.statistics[module.path],
        )
        curves[module.path] = Curve(module.path, 1.0, tuple(points))
    return curves


def factors(corrected: dict[str, Curve], curves: dict[str, Curve]) -> list[float]:
    """Return what the curves of the layers, and of what is outside them, were multiplied by."""
    assert corrected.keys() == curves.keys()
    found: dict[bool, set[float]] = {}
    for path, curve in corrected.items():
        for new, old in zip(curve.points, curves[path].points, strict=True):
            if old.kl_nats > 0:
                part = found.setdefault(".layers." in path, set())
                part.add(round(new.kl_nats / old.kl_nats, 6))
    assert all(len(part) == 1 for part in found.values()), "within a part the ranking stays"
    return [next(iter(part)) for part in found.values()]


@pytest.fixture(scope="module")
def reference(sample_model: Path) -> Reference:
    windows, _ = job_rollouts(sample_model, seed=0, cache=None)
    return Reference.on(sample_model, windows)


@pytest.fixture(scope="module")
def checked(
    coding: Coding, curves: dict[str, Curve], reference: Reference
) -> tuple[Verified, list[Step]]:
    told: list[Step] = []
    return verify(coding, curves, reference, seed=0, stages=noted_in(told)), told


def test_random_allocations_cost_what_is_predicted(
    checked: tuple[Verified, list[Step]], coding: Coding, curves: dict[str, Curve]
) -> None:
    found, told = checked
    agreed = found.verification
    corrected, law = found.curves, found.calibration
    modules = len(coding.inventory.modules)
    assert told[:modules] == [(Stage.CODING, i + 1, modules) for i in range(modules)]
    assert told[modules : modules + 13] == [(Stage.RUNNING, i + 1, 13) for i in range(13)]
    layers = len({m.layer for m in coding.inventory.modules} - {None})
    assert told[modules + 13 :] == [
        (Stage.IN_SEQUENCE, i + 1, 3 * layers) for i in range(3 * layers)
    ]
    assert len(agreed.measured) == 8
    assert agreed.r_squared >= 0.9
    assert agreed.spearman >= 0.95
    assert 0.8 < agreed.slope < 1.25
    assert all(3 < bits < 8.5 for bits in agreed.bits_per_weight)
    assert all(0.5 < factor < 4 for factor in factors(corrected, curves)), "on 2,048 tokens"
    assert len(law.costs) == 3
    assert law.kl(law.costs[1]) == pytest.approx(law.costs[1])
    assert all(0.01 < error < 0.3 for error in law.log_errors)


def test_large_models_are_coded_faster_and_predicted_as_well(
    checked: tuple[Verified, list[Step]],
    coding: Coding,
    curves: dict[str, Curve],
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verification, "LARGE_WEIGHTS", 1000)
    told: list[Step] = []
    fast = verify(coding, curves, reference, seed=0, stages=noted_in(told))
    assert told[-1][1] == told[-1][2]
    assert 3 * told[-1][2] == checked[1][-1][2], "coded in sequence once, and not at each size"
    assert fast.verification.r_squared >= 0.9
    for one, other in zip(checked[0].calibration.measured, fast.calibration.measured, strict=True):
        assert one == pytest.approx(other, rel=0.1)


def test_of_a_model_that_does_not_fit_the_same_is_said(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, "llama"))
    inventory = build_inventory(checkpoint)
    found = {}
    for module in inventory.modules:
        points = tuple(
            CurvePoint(f, 4.0**-f.bits, 1e-2 * 4.0**-f.bits)
            for f in module.legal_formats()
            if f != KEEP
        )
        found[module.path] = Curve(module.path, 1.0, (*points, KEEP_POINT))
    ids = np.random.default_rng(0).integers(0, 128, (12, 32), np.int32)
    plain = Coding(checkpoint, inventory, Encoder.CAREFUL, {})
    windows = Reference.on(checkpoint.folder, ids)
    held, streamed = (
        verify(plain, found, windows, seed=0, memory_bytes=memory) for memory in (None, 1000)
    )
    assert held == streamed
    assert held.calibration.costs


def test_the_checkpoint_of_a_stated_budget_calibrates_and_its_codes_are_left(
    tmp_path: Path,
) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path / "model", "llama"))
    ids = np.random.default_rng(0).integers(0, 128, (12, 32), np.int32)
    known = collect_statistics(checkpoint.folder, ids, seed=0)
    coding = Coding(checkpoint, build_inventory(checkpoint), Encoder.YAQA, known)
    curves, reference = curves_of(coding), Reference.on(checkpoint.folder, ids)
    whole = sum(file.stat().st_size for file in checkpoint.folder.glob("*.safetensors"))
    request = AllocationRequest(budget=int(0.4 * whole))
    asked: list[dict[str, Format]] = []
    coded_in = tmp_path / "coded"
    coded_in.mkdir()

    def place(formats: Mapping[str, Format]) -> Path:
        asked.append(dict(formats))
        return coded_in

    found = verify(coding, curves, reference, seed=0, deployment=Deployment(request, place))
    measurement = Measurement(
        coding.checkpoint.identity(),
        coding.inventory,
        coding.encoder,
        Sensitivity.FISHER,
        tuple(found.curves.values()),
        calibration=found.calibration,
    )
    allocation = allocate_in_time(measurement, request)
    assert asked == [allocation.formats], "the answer to the request is what was coded"
    law, cost = found.calibration, measurement.cost(allocation.formats)
    assert any(known == pytest.approx(cost) for known in law.costs), "calibrated at the size asked"
    assert allocation.predicted_kl_nats_per_token == pytest.approx(law.kl(cost))
    coded = list(coded_in.glob("coded-*.npz"))
    layers = {m.layer for m in coding.inventory.modules if m.layer is not None}
    assert len(coded) == len(layers) + 1, "every layer, and what lies outside them"
