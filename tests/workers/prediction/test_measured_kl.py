"""KL of allocations by running them, each group alone and beside the others."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.app.core.formats import KEEP, Format, parse_format
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.evaluate.reference import Reference
from bitbudget.workers.evaluate.teacher import token_kl
from bitbudget.workers.models import build_inventory, open_checkpoint
from bitbudget.workers.prediction.measured_kl import Coding, MeasuredKl, Trials
from bitbudget.workers.quantize.coding import coded_alone
from bitbudget.workers.running.float32 import load_float32
from tests.workers.models.tiny import write_tiny

IDS = np.random.default_rng(0).integers(0, 128, (12, 32), np.int32)
LITTLE = 1000
"""Bytes of a memory in which nothing fits."""


def opened(folder: Path, kind: str = "llama") -> tuple[Coding, Reference]:
    checkpoint = open_checkpoint(write_tiny(folder, kind))
    inventory = build_inventory(checkpoint)
    reference = Reference.on(checkpoint.folder, IDS)
    return Coding(checkpoint, inventory, Encoder.CAREFUL, {}), reference


def uniform(coding: Coding, name: str) -> dict[str, Format]:
    return {module.path: parse_format(name) for module in coding.inventory.modules}


def test_small_errors_add_up_from_both_ends_and_nothing_is_left_behind(tmp_path: Path) -> None:
    coding, reference = opened(tmp_path)
    kept = {module.path: KEEP for module in coding.inventory.modules}
    few, fewer = uniform(coding, "affine4g64"), uniform(coding, "affine3g64")
    with Trials(coding, reference) as trials:
        assert trials.kl(kept, reference.judging).mean == pytest.approx(0, abs=1e-6)
        probed = [trials.kl(pick, reference.probing).mean for pick in (few, kept, fewer)]
        assert 0 < 2 * probed[0] < probed[2]
        assert probed[1] == pytest.approx(0, abs=1e-6)
        before = trials.kl(few, reference.judging).mean
        told: list[tuple[int, int]] = []
        costs = trials.group_costs(few, lambda done, total: told.append((done, total)))
        groups = coding.inventory.decision_groups()
        assert told[-1] == (2 * len(groups), 2 * len(groups))
        assert costs.alone.keys() == costs.beside.keys() == groups.keys()
        assert trials.kl(few, reference.judging).mean == pytest.approx(before, rel=1e-5)
        assert trials.kl_as_written(few, reference.judging).mean == pytest.approx(before, rel=1e-5)
        assert trials.kl(kept, reference.judging).mean == pytest.approx(0, abs=1e-6)
        middle = (sum(costs.alone.values()) + sum(costs.beside.values())) / 2
        assert middle == pytest.approx(costs.whole, rel=0.1)
        assert trials.kl(uniform(coding, "affine2g64"), reference.judging).mean > 4 * before


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
def test_a_model_that_does_not_fit_is_read_for_each_pass_and_loses_the_same(
    tmp_path: Path, kind: str
) -> None:
    coding, reference = opened(tmp_path, kind)
    kept = {module.path: KEEP for module in coding.inventory.modules}
    some = kept | dict(list(uniform(coding, "affine3g64").items())[::2])
    picks = (uniform(coding, "affine4g64"), some, kept, some)
    found = []
    for memory in (None, LITTLE):
        with Trials(coding, reference, memory_bytes=memory) as trials:
            found.append([trials.kl(pick, reference.everything).by_window for pick in picks])
    held, streamed = found
    assert np.array_equal(held, streamed)
    assert np.array_equal(held[1], held[3])
    assert held[0].shape == (len(IDS),)
    assert abs(held[2]).max() < 1e-6 < held[1].min()


def test_the_weights_that_run_are_those_that_are_stored(tmp_path: Path) -> None:
    coding, reference = opened(tmp_path)
    few = uniform(coding, "affine4g32")
    model = load_float32(coding.checkpoint.folder)
    place = (coding.checkpoint, coding.inventory)
    weights = [
        (f"{m.path}.weight", coded_alone(place[0], m, few[m.path], Encoder.CAREFUL, {}))
        for m in place[1].modules
    ]
    model.load_weights([(name, mx.array(value)) for name, value in weights], strict=False)
    expected = [token_kl(batch, model, "").mean(axis=1) for batch in reference.probing]
    with Trials(coding, reference) as trials:
        found = trials.kl(few, reference.probing)
    assert np.array_equal(found.by_window, np.concatenate(expected))


def test_the_error_of_a_mean_is_how_far_windows_differ() -> None:
    found = MeasuredKl(np.array([[1.0], [2.0], [3.0], [2.0]]))
    assert found.mean == 2
    assert found.log_error == pytest.approx(np.sqrt(2 / 3) / 2 / 2)
    assert MeasuredKl(np.array([[1.0]])).log_error == 0
    assert MeasuredKl(np.array([[-1e-9], [0.0]])).mean == 0
