"""A killed training goes on where it was last looked at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from bitbudget.app.core.requests import Recover
from bitbudget.workers.recovery import recover
from bitbudget.workers.recovery.state import StateFolder
from bitbudget.workers.recovery.training import Training

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 20.0
PROGRAM = f"""
import sys
from pathlib import Path
from bitbudget.app.core.requests import Recover
from bitbudget.workers.recovery import recover
recover(Path(sys.argv[1]), Path(sys.argv[2]), Recover.SCALES, seconds={SECONDS}, streamed={{}})
"""


def test_a_training_goes_on_from_its_state_as_if_it_had_not_stopped(
    original: Path, rough: Path
) -> None:
    first, second = (Training(rough, original, seed=0) for _ in range(2))
    for _ in range(3):
        first.step(0.2)
    first.look()
    kept = StateFolder(rough, {"seed": 0})
    kept.write(*first.state())
    state = kept.read()
    assert state is not None
    second.resume(*state)
    assert StateFolder(rough, {"seed": 1}).read() is None
    for training in (first, second):
        training.step(0.4)
        training.look()
    assert (second.steps, second.looked, second.best) == (4, 4, first.best)
    ours: dict[str, mx.array] = dict(tree_flatten(second.values))
    theirs: dict[str, mx.array] = dict(tree_flatten(first.values))
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert mx.array_equal(ours[name], array), name


@pytest.mark.chaos
@pytest.mark.parametrize("streamed", [False, True])
def test_a_killed_training_goes_on(original: Path, rough: Path, *, streamed: bool) -> None:
    file = next(rough.glob("*.safetensors"))
    data, state = file.read_bytes(), rough / ".recovery" / "state.json"
    command = [sys.executable, "-c", PROGRAM.format(streamed), str(rough), str(original)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        while process.poll() is None and not state.exists():
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert file.read_bytes() == data
    saved = int(next(state.parent.glob("*.safetensors")).stem)
    told: list[tuple[int, int]] = []
    found = recover(
        rough,
        original,
        Recover.SCALES,
        seconds=SECONDS,
        steps=saved,
        streamed=streamed,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == []  # that many steps were done before
    assert found.steps == saved > 0
    assert found.after <= found.before
    assert len(file.read_bytes()) == len(data)
    assert not state.parent.exists()
