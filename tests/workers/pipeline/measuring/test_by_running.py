"""Curves by the deployed encoder's error: which are exact, and what is said of the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bitbudget.app.contract.home import Home
from bitbudget.app.contract.steps import Step
from bitbudget.app.core.formats import parse_format
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.measurement import Curve, Encoder, Sensitivity
from bitbudget.app.core.requests import Rotation
from bitbudget.workers.curves import sampled
from bitbudget.workers.curves.exact import kl_curve
from bitbudget.workers.curves.sampled import SampleSize
from bitbudget.workers.fisher import KroneckerTerm, ModuleStatistics, Statistics
from bitbudget.workers.models import Checkpoint, build_inventory, open_checkpoint
from bitbudget.workers.pipeline.journal import Journal
from bitbudget.workers.pipeline.measuring import by_running as sensitive
from bitbudget.workers.pipeline.measuring.by_running import Sensitivities, verified
from bitbudget.workers.pipeline.measuring.curves import curves_by_error
from bitbudget.workers.pipeline.options import MeasureOptions
from bitbudget.workers.pipeline.report import Reporter
from bitbudget.workers.pipeline.run import Run, Variant
from bitbudget.workers.quantize.coding import float32_weight

SMALL, LARGE = "model.layers.0.self_attn.k_proj", "model.layers.0.mlp.up_proj"
OPTIONS = MeasureOptions(
    Encoder.YAQA,
    Sensitivity.FISHER,
    Rotation.NONE,
    None,
    0,
    formats=(parse_format("affine3g64"), parse_format("affine5g32")),
)


def made_up(module: Module) -> ModuleStatistics:
    rng = np.random.default_rng(0)
    factors = [rng.normal(size=(n, 2 * n)).astype(np.float32) for n in module.shape[::-1]]
    columns, rows = (x @ x.T / np.float32(len(x) ** 2) for x in factors)
    sums = np.ones(module.shape[0]), np.ones(module.shape[1])
    terms = (KroneckerTerm(columns, rows),)
    return ModuleStatistics(module.path, 1.0, *sums, terms, np.array(1000))


@pytest.fixture
def checkpoint(sample_model: Path) -> Checkpoint:
    return open_checkpoint(sample_model)


@pytest.fixture
def inventory(checkpoint: Checkpoint) -> Inventory:
    found = build_inventory(checkpoint)
    return replace(found, modules=(found.module(SMALL), found.module(LARGE)))


@pytest.fixture
def known(inventory: Inventory) -> Sensitivities:
    modules = {module.path: made_up(module) for module in inventory.modules}
    return Sensitivities(1000, dict.fromkeys(modules, 1.0), Statistics(1000, modules))


def run(folder: Path) -> Run:
    return Run(Home(folder), Reporter(lambda _event: None).begin(Step.MEASURE))


def curves(
    checkpoint: Checkpoint, inventory: Inventory, known: Sensitivities, folder: Path
) -> dict[str, Curve]:
    journal = Journal(folder / "curves.jsonl")
    found = curves_by_error(run(folder), Variant(checkpoint, inventory, OPTIONS), known, journal)
    return {curve.path: curve for curve in found}


def test_only_large_modules_are_estimated_and_that_is_said(
    checkpoint: Checkpoint,
    inventory: Inventory,
    known: Sensitivities,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampled, "SAMPLE", SampleSize(more_than=1 << 20))
    exact = curves(checkpoint, inventory, known, tmp_path / "exact")
    for module in inventory.modules:
        statistics = known.modules[module.path]
        points = kl_curve(
            module, float32_weight(checkpoint, module), OPTIONS.formats, Encoder.YAQA, statistics
        )
        assert exact[module.path].points == tuple(points)
    monkeypatch.setattr(sampled, "SAMPLE", SampleSize(more_than=40_000, anchored=0))
    found = curves(checkpoint, inventory, known, tmp_path / "sampled")
    assert found[SMALL] == exact[SMALL]
    for point, true in zip(found[LARGE].points[:2], exact[LARGE].points, strict=False):
        assert 0 < point.t2_relative_error < 0.2
        assert point.kl_nats == pytest.approx(true.kl_nats, rel=3 * point.t2_relative_error)
    nothing = replace(known, modules=Statistics(1000))
    variant = Variant(checkpoint, inventory, OPTIONS)
    assert verified(run(tmp_path), variant, found, nothing) == (None, ())
    assert sensitive._sampled(variant, found, known)[0].startswith(
        "the curves of 1 modules are estimated"
    )
