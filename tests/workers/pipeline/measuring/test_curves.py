"""Curves made on a cluster of real workers are those made here, whatever befalls a worker."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitbudget.app.contract.events import Event
from bitbudget.app.contract.home import Home
from bitbudget.app.contract.steps import Step
from bitbudget.app.contract.tasks import MeasureTask
from bitbudget.app.core.errors import BitbudgetError, InvalidRequestError
from bitbudget.app.core.formats import parse_format
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.measurement import Curve, Encoder, Sensitivity
from bitbudget.app.core.requests import Rotation
from bitbudget.workers.fisher import KroneckerTerm, ModuleStatistics, Statistics
from bitbudget.workers.fisher.statistics import write_modules
from bitbudget.workers.models import Checkpoint, build_inventory, open_checkpoint
from bitbudget.workers.pipeline import run as pipeline
from bitbudget.workers.pipeline.journal import Journal
from bitbudget.workers.pipeline.measuring.by_running import Sensitivities
from bitbudget.workers.pipeline.measuring.curves import curves_by_error
from bitbudget.workers.pipeline.options import MeasureOptions
from bitbudget.workers.pipeline.report import Reporter
from bitbudget.workers.pipeline.tasks import run_task
from tests.workers.models.tiny import write_tiny

distributed: Any = pytest.importorskip("distributed")

OPTIONS = MeasureOptions(
    Encoder.YAQA,
    Sensitivity.FISHER,
    Rotation.NONE,
    None,
    0,
    formats=(parse_format("affine3g64"), parse_format("mxfp4")),
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as running:
            yield running


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(write_tiny(tmp_path / "model", "qwen3_moe"))


def made_up(module: Module, seed: int) -> ModuleStatistics:
    rng = np.random.default_rng(seed)
    lead, (out, width) = module.shape[:-2], module.shape[-2:]
    factors = [rng.normal(size=(*lead, n, 2 * n)).astype(np.float32) for n in (width, out)]
    columns, rows = (x @ np.swapaxes(x, -1, -2) / np.float32(x.shape[-1] ** 2) for x in factors)
    sums = np.ones((*lead, out)), np.ones((*lead, width))
    tokens = np.full(lead, 1000)
    return ModuleStatistics(module.path, 1.0, *sums, (KroneckerTerm(columns, rows),), tokens)


def stored(inventory: Inventory, home: Path, but: str = "") -> Sensitivities:
    """Write statistics of all modules but one to a file, as a pass leaves them."""
    home.mkdir(parents=True)
    paths = [module.path for module in inventory.modules]
    known = {m.path: made_up(m, i) for i, m in enumerate(inventory.modules) if m.path != but}
    file = home / "layers.npz"
    write_modules(file, known.values())
    found = Statistics(1000, files=dict.fromkeys(known, file))
    return Sensitivities(1000, {path: i + 0.5 for i, path in enumerate(paths)}, found)


class Run:
    """One run of the curves, with what it tells and keeps."""

    def __init__(self, checkpoint: Checkpoint, home: Path, but: str = "") -> None:
        self.checkpoint, self.home = checkpoint, home
        self.inventory = build_inventory(checkpoint)
        self.known = stored(self.inventory, home, but)
        self.events: list[Event] = []

    def journal(self, cluster: Any = None) -> Journal:
        return Journal(self.home / f"{cluster is None}.jsonl")

    def curves(self, cluster: Any = None, **changes: Any) -> Iterator[Curve]:
        address = None if cluster is None else cluster.scheduler_address
        options = replace(OPTIONS, cluster=address, **changes)
        run = pipeline.Run(Home(self.home), Reporter(self.events.append).begin(Step.MEASURE))
        variant = pipeline.Variant(self.checkpoint, self.inventory, options)
        return curves_by_error(run, variant, self.known, self.journal(cluster))


def by_path(curves: Iterator[Curve]) -> dict[str, Curve]:
    return {curve.path: curve for curve in curves}


def test_a_cluster_makes_the_curves_that_are_made_here(
    checkpoint: Checkpoint, tmp_path: Path, cluster: Any
) -> None:
    run = Run(checkpoint, tmp_path / "home", but="model.layers.1.mlp.gate")
    assert any(len(module.shape) > 2 for module in run.inventory.modules)
    here = by_path(run.curves())
    assert by_path(run.curves(cluster)) == here
    weights = sum(module.weights for module in run.inventory.modules)
    last = run.events[-1]
    assert last.kind == "progress"
    assert (last.done, last.total) == (2 * weights, 2 * weights)
    assert here["model.layers.0.self_attn.q_proj"].features["output_noise"] > 0
    run.home.joinpath("layers.npz").unlink()  # whoever made one now would fail
    assert by_path(run.curves(cluster)) == here


@pytest.mark.chaos
def test_a_lost_worker_costs_nothing_but_time(
    checkpoint: Checkpoint, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitbudget.workers.pipeline.measuring.curves._LEAST_BATCH_BYTES", 2**16)
    run = Run(checkpoint, tmp_path / "home")
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        processes = client.run(os.getpid)
        curves = run.curves(cluster)
        found = [next(curves)]
        assert len(list(run.journal(cluster))) == 1
        busy = [address for address, tasks in client.processing().items() if tasks]
        os.kill(processes[busy[0]], signal.SIGKILL)
    found.extend(curves)
    assert by_path(iter(found)) == by_path(run.curves())


def test_an_error_names_its_module(checkpoint: Checkpoint, tmp_path: Path, cluster: Any) -> None:
    run = Run(checkpoint, tmp_path / "home")
    broken = "model.layers.1.self_attn.o_proj"
    module = replace(run.inventory.module(broken), shape=(7, 7))
    run.inventory = replace(run.inventory, modules=(module,))
    with pytest.raises(BitbudgetError, match=rf"^{broken}: .*reshape"):
        list(run.curves(cluster))


def test_a_worker_that_lacks_the_statistics_says_so(
    checkpoint: Checkpoint, tmp_path: Path, cluster: Any
) -> None:
    run = Run(checkpoint, tmp_path / "home")
    (run.home / "layers.npz").unlink()
    with pytest.raises(InvalidRequestError, match=r"nothing at .*layers\.npz.* same path"):
        list(run.curves(cluster))


def test_a_worker_that_finds_another_model_says_so(
    checkpoint: Checkpoint, tmp_path: Path, cluster: Any
) -> None:
    run = Run(replace(checkpoint, digest="0" * 64), tmp_path / "home")
    with pytest.raises(InvalidRequestError, match=r"other files \(digest .*000000000000"):
        list(run.curves(cluster))


def test_a_home_that_workers_do_not_see_is_found_before_anything_else(
    sample_model: Path, tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "bitbudget.workers.pipeline.measuring.by_running.take_statistics", None
    )  # would fail
    monkeypatch.setattr(
        "bitbudget.workers.pipeline.steps.measure.Path.absolute", lambda path: path / "unshared"
    )
    address = cluster.scheduler_address
    task = MeasureTask(home=str(tmp_path), model=str(sample_model), cluster=address)
    with pytest.raises(InvalidRequestError, match=r"found nothing at .*unshared"):
        run_task(task, lambda _: None)
