"""A checkpoint is either not there or whole, wherever its writer is killed."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitbudget.app.contract.tasks import JobTask, QuantizeTask
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.requests import JobRequest
from bitbudget.workers.pipeline.tasks import run_task
from tests.chaos.contents import contents
from tests.chaos.fleet import REPOSITORY

pytestmark = pytest.mark.chaos

CHECKPOINTS = max(2, int(os.environ.get("BITBUDGET_CHAOS_JOBS", "20")) // 5)
SEED = int(os.environ.get("BITBUDGET_CHAOS_SEED", "7"))
MOST_KILLS = 6


def _start(task: QuantizeTask) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-m", "bitbudget.workers.child"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdin is not None
    child.stdin.write(task.model_dump_json().encode())
    child.stdin.close()
    child.stdin = None
    return child


def _run_until(child: subprocess.Popen[bytes], seconds: float) -> bool:
    """Let the child write for so long and kill it; whether it had ended."""
    assert child.stdout is not None
    last: dict[str, object] = {}
    for line in child.stdout:
        last = json.loads(line)
        if last.get("step") == "quantize":
            break
    assert last["kind"] != "failed", last
    try:
        rest, _ = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return False
    ended = json.loads(rest.splitlines()[-1])
    assert ended["kind"] == "finished", ended
    return True


def test_a_killed_writer_leaves_nothing_half_done_and_goes_on(
    tmp_path: Path, sample_model: Path
) -> None:
    chooser = random.Random(SEED)  # noqa: S311 - the same kills for the same seed
    home = tmp_path / "home"
    request = JobRequest(
        model=str(sample_model), budget=4_000_000, sensitivity="weights", encoder="minmax"
    )
    result = run_task(JobTask(home=str(home), request=request), lambda _: None).model_dump(
        mode="json"
    )
    manifest = Manifest.from_bytes(Path(result["manifest"]).read_bytes())

    def task(output: Path) -> QuantizeTask:
        return QuantizeTask(
            home=str(home),
            model=str(sample_model),
            manifest=result["manifest"],
            output=str(output),
        )

    started = time.monotonic()
    run_task(task(tmp_path / "undisturbed"), lambda _: None)
    undisturbed_seconds = time.monotonic() - started
    expected = contents(tmp_path / "undisturbed")
    assert hashlib.sha256(manifest.to_bytes()).hexdigest() == expected["manifest.json"]
    kills = index = 0
    while index < CHECKPOINTS or (kills < CHECKPOINTS // 2 and index < 10 * CHECKPOINTS):
        index += 1  # others take their place where the machine was slow only to begin with
        output = tmp_path / f"output-{index}"
        for _ in range(MOST_KILLS):
            if _run_until(_start(task(output)), chooser.uniform(0, undisturbed_seconds)):
                break
            kills += 1
            if output.exists():  # killed after the rename: there is nothing left to do
                break
        else:
            assert _run_until(_start(task(output)), 120)
        assert contents(output) == expected
    assert kills >= CHECKPOINTS // 2
    assert _run_until(_start(task(tmp_path / "last")), 120)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")] == []
