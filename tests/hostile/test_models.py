"""Hostile model folders, through the functions that open a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitbudget.app.child.process import ChildProcess
from bitbudget.app.contract.events import Failed
from bitbudget.app.contract.tasks import FitTask
from bitbudget.workers.models import build_inventory, open_checkpoint
from tests.hostile import config_cases, folder_cases, safetensors_cases
from tests.hostile.conftest import Refused
from tests.hostile.tiny import Q_PROJ, SHAPES, Case, config, model, weights

pytestmark = pytest.mark.hostile

CASES = [*safetensors_cases.cases(), *config_cases.cases(), *folder_cases.cases()]


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The model that the cases damage is sound; opening it once pays for imports."""
    folder = Case("sound", model()).write(tmp_path_factory.mktemp("sound") / "model")
    inventory = build_inventory(open_checkpoint(folder))
    assert len(inventory.modules) == 8


def test_the_corpus_is_as_large_as_promised() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) >= 150


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_hostile_folder_is_a_clear_error(case: Case, tmp_path: Path, refused: Refused) -> None:
    folder = case.write(tmp_path / "model")
    with refused():
        build_inventory(open_checkpoint(folder))


@pytest.mark.parametrize("case", list(folder_cases.stale_indexes()), ids=str)
def test_an_index_that_nobody_needs_is_no_fault(case: Case, tmp_path: Path) -> None:
    folder = case.write(tmp_path / "model")
    assert len(build_inventory(open_checkpoint(folder)).modules) == 8


@pytest.mark.parametrize(
    "claim",
    [
        {"quantization": {"group_size": 64, "bits": 4}},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {
            "quantization_config": {
                "quant_method": "fp8",
                "scale_fmt": "ue8m0",
                "weight_block_size": [32, 32],
            }
        },
        {"quantization_config": [1]},
    ],
)
def test_dense_weights_that_are_called_quantized_are_dense(
    claim: dict[str, Any], tmp_path: Path
) -> None:
    folder = Case("claim", model(config__json=config(**claim))).write(tmp_path / "model")
    checkpoint = open_checkpoint(folder)
    assert len(build_inventory(checkpoint).modules) == 8
    assert "dense" in checkpoint.notes[0]


def test_a_folder_that_is_missing_or_a_file(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("missing", "file"):
        with refused():
            open_checkpoint(tmp_path / name)


def _missing_a_shard(folder: Path, index: bytes) -> None:
    Case("shard", dict(model()) | {"model.safetensors.index.json": index}).write(folder)
    shapes = {name: shape for name, shape in SHAPES.items() if name != Q_PROJ}
    (folder / "model.safetensors").write_bytes(weights(shapes))


def _names() -> bytes:
    names = (f"{number:0100d}" for number in range(480_000))
    return json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")}).encode()


def _many_files(folder: Path) -> None:
    Case("many", {"config.json": config()}).write(folder)
    for number in range(20_000):
        (folder / f"model-{number:05d}.safetensors").touch()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_many_files, "20000 weight files"),
        (lambda folder: _missing_a_shard(folder, b" " * 60_000_000), "q_proj"),
        (lambda folder: _missing_a_shard(folder, _names()), "q_proj"),
    ],
    ids=["20,000-weight-files", "60-MB-of-spaces", "60-MB-of-names"],
)
def test_a_huge_folder_is_a_clear_error_in_a_second_and_half_a_gibibyte(
    make: Callable[[Path], None], said: str, tmp_path: Path, refused: Refused
) -> None:
    folder = tmp_path / "model"
    make(folder)
    with refused():
        build_inventory(open_checkpoint(folder))
    with ChildProcess(most_seconds=120) as child:  # which has 512 MiB
        child.give(FitTask(home=str(tmp_path), model=str(folder)))
        last = list(child.events())[-1]
    assert isinstance(last, Failed)
    assert (last.problem.status, said in last.problem.detail) == (422, True), last.problem
