"""Coding the sample model layer by layer against what coded layers pass on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from bitbudget.app.core.formats import KEEP, Format, parse_format
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.encoders.number_formats import dequantize
from bitbudget.workers.evaluate import Evaluator
from bitbudget.workers.fisher import Statistics, collect_statistics
from bitbudget.workers.models import Checkpoint, build_inventory, open_checkpoint
from bitbudget.workers.quantize.coding import arrays_alone, coded_alone, written_arrays
from bitbudget.workers.running.tokens import sample_tokens
from bitbudget.workers.sequential import Plan, code_sequentially, read_coded
from tests.workers.models.tiny import write_tiny


class _KilledError(Exception):
    pass


@pytest.fixture(scope="module")
def checkpoint(sample_model: Path) -> Checkpoint:
    return open_checkpoint(sample_model)


@pytest.fixture(scope="module")
def inventory(checkpoint: Checkpoint) -> Inventory:
    return build_inventory(checkpoint)


@pytest.fixture(scope="module")
def statistics(sample_model: Path) -> Statistics:
    return collect_statistics(sample_model, sample_tokens(sample_model, 16, 256, seed=3), seed=0)


@pytest.fixture(scope="module")
def formats(inventory: Inventory) -> dict[str, Format]:
    chosen = {module.path: parse_format("affine3g64") for module in inventory.modules}
    return chosen | {inventory.modules[3].path: KEEP}


def _plan(
    checkpoint: Checkpoint,
    inventory: Inventory,
    formats: dict[str, Format],
    statistics: Statistics,
    encoder: Encoder = Encoder.GPTQ,
) -> Plan:
    alone = partial(arrays_alone, checkpoint, encoder=encoder, statistics=statistics)
    return Plan(
        inventory, formats, encoder, statistics, lambda module, f: alone(module=module, format_=f)
    )


def test_less_is_lost_than_by_modules_coded_alone(
    checkpoint: Checkpoint,
    inventory: Inventory,
    formats: dict[str, Format],
    statistics: Statistics,
) -> None:
    evaluation = Evaluator(checkpoint.folder, rollouts=4, seed=11)
    evaluation.taught  # noqa: B018 - before the weights are replaced
    modules = dict(zip((m.path for m in inventory.modules), inventory.modules, strict=True))
    alone = {
        path: coded_alone(checkpoint, modules[path], format_, Encoder.GPTQ, statistics)
        for path, format_ in formats.items()
    }
    written = written_arrays(checkpoint, inventory, formats, Encoder.GPTQ, statistics)
    together = {m.path: dequantize(arrays, formats[m.path], m.dtype) for m, arrays in written}
    kl = []
    for values in (alone, together):
        arrays = [(f"{path}.weight", mx.array(value)) for path, value in values.items()]
        evaluation.original.load_weights(arrays, strict=False)
        found = evaluation.sets(evaluation.original, "coded")["rollouts"]
        kl.append(found["kl_nats_per_token"])
    assert kl[1] < 0.95 * kl[0]


def test_a_killed_walk_goes_on_and_ends_the_same(
    checkpoint: Checkpoint,
    inventory: Inventory,
    formats: dict[str, Format],
    statistics: Statistics,
    tmp_path: Path,
) -> None:
    assert statistics.text is not None
    small = replace(statistics, text=statistics.text[:2])
    plan = _plan(checkpoint, inventory, formats, small)
    whole = code_sequentially(checkpoint.folder, plan, tmp_path / "whole")

    def kill(done: int, _: int) -> None:
        if done == 3:
            raise _KilledError

    with pytest.raises(_KilledError):
        code_sequentially(checkpoint.folder, plan, tmp_path / "killed", kill)
    finished = {file: file.stat().st_mtime_ns for file in (tmp_path / "killed").glob("coded-*")}
    again = code_sequentially(checkpoint.folder, plan, tmp_path / "killed")
    assert len(finished) == 1 + 3, "what lies outside the layers, and three of them"
    assert all(file.stat().st_mtime_ns == when for file, when in finished.items())
    assert whole.keys() == again.keys()
    for path, file in whole.items():
        one, other = read_coded(file, path), read_coded(again[path], path)
        assert one.keys() == other.keys() == {"weight", "scales", "biases"}
        assert all(np.array_equal(one[suffix], other[suffix]) for suffix in one)


def test_every_module_that_loses_something_is_coded_once(
    checkpoint: Checkpoint,
    inventory: Inventory,
    formats: dict[str, Format],
    statistics: Statistics,
    tmp_path: Path,
) -> None:
    assert statistics.text is not None
    small = replace(statistics, text=statistics.text[:1])
    found = code_sequentially(
        checkpoint.folder, _plan(checkpoint, inventory, formats, small), tmp_path
    )
    assert found.keys() == {path for path, format_ in formats.items() if format_ != KEEP}
    assert not list((tmp_path / "states").glob("*self_attn*"))


def test_encoders_that_compensate_nothing_code_modules_alone(
    checkpoint: Checkpoint,
    inventory: Inventory,
    formats: dict[str, Format],
    statistics: Statistics,
    tmp_path: Path,
) -> None:
    for encoder in (Encoder.MINMAX, Encoder.CAREFUL):
        plan = _plan(checkpoint, inventory, formats, statistics, encoder)
        assert code_sequentially(checkpoint.folder, plan, tmp_path) == {}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_tiny(tmp_path_factory.mktemp("mixture"), "qwen3_moe"))


def test_routers_and_experts_are_coded_against_what_they_will_read(
    mixture: Checkpoint, tmp_path: Path
) -> None:
    inventory = build_inventory(mixture)
    text = np.random.default_rng(0).integers(0, 128, (4, 32)).astype(np.int32)
    statistics = collect_statistics(mixture, text, seed=0)
    formats = {module.path: parse_format("affine3g32") for module in inventory.modules}
    plan = _plan(mixture, inventory, formats, statistics, Encoder.YAQA)
    found = code_sequentially(mixture.folder, plan, tmp_path)
    assert found.keys() == formats.keys()
    changed = set()
    for module in inventory.modules:
        coded = read_coded(found[module.path], module.path)
        alone = arrays_alone(mixture, module, formats[module.path], Encoder.YAQA, statistics)
        assert {s: a.shape for s, a in coded.items()} == {s: a.shape for s, a in alone.items()}
        if any(not np.array_equal(coded[suffix], alone[suffix]) for suffix in alone):
            changed.add(module.path)
    shifted = {path for path in formats if ".layers." in path}
    assert any(path.endswith("mlp.gate") for path in shifted)
    assert any(path.endswith("switch_mlp.down_proj") for path in shifted)
    assert changed == shifted


def test_modules_that_are_asked_to_be_alone_are_coded_so(
    mixture: Checkpoint, tmp_path: Path
) -> None:
    inventory = build_inventory(mixture)
    text = np.random.default_rng(0).integers(0, 128, (2, 32)).astype(np.int32)
    statistics = collect_statistics(mixture, text, seed=0)
    formats = {module.path: parse_format("affine3g32") for module in inventory.modules}
    stacks = [module for module in inventory.modules if "switch_mlp" in module.path]
    plan = _plan(mixture, inventory, formats, statistics, Encoder.YAQA)
    found = code_sequentially(
        mixture.folder, replace(plan, alone=[module.path for module in stacks]), tmp_path
    )
    for module in stacks:
        coded = read_coded(found[module.path], module.path)
        alone = arrays_alone(mixture, module, formats[module.path], Encoder.YAQA, statistics)
        assert all(np.array_equal(coded[suffix], alone[suffix]) for suffix in alone)
