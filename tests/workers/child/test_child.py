"""The child process: its events, its errors, its end, and killing it in every step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from bitbudget.app.contract.events import Event
from bitbudget.app.contract.steps import Step, steps_of
from bitbudget.app.contract.tasks import FitTask, JobTask, QuantizeTask
from bitbudget.app.core.requests import Deliver, JobRequest
from bitbudget.app.core.sizes import parse_size
from tests.support.child import REPOSITORY, ChildRun, at_step, run_child
from tests.workers.models.tiny import write_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny", "qwen3_moe")


def job(home: Path, model: Path, **fields: object) -> JobTask:
    request = JobRequest.model_validate(
        {"model": str(model), "budget": "200kB", "deliver": Deliver.CHECKPOINT, **fields}
    )
    return JobTask(home=str(home), request=request)


def test_a_job_killed_in_every_step_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    """Without statistics, to be quick; a worker's test kills a pass that collects them."""

    def run_job(home: str, kill_at: Callable[[Event], bool] | None = None) -> ChildRun:
        return run_child(job(tmp_path / home, tiny, sensitivity="weights"), kill_at)

    undisturbed = run_job("calm")
    steps = steps_of(job(tmp_path, tiny).request)
    for step in steps:
        killed = run_job("home", at_step(step))
        assert killed.status == -signal.SIGKILL
        assert step in killed.steps
    resumed = run_job("home")
    assert tuple(resumed.steps) == steps
    for name in ("manifest.json", "model.safetensors", "config.json", "README.md"):
        ours = Path(resumed.result["checkpoint"]) / name
        expected = Path(undisturbed.result["checkpoint"]) / name
        assert ours.read_bytes() == expected.read_bytes()
    sizes = [p.stat().st_size for p in Path(resumed.result["checkpoint"]).glob("*.safetensors")]
    assert sum(sizes) == resumed.result["file_bytes"] <= parse_size("200kB")
    assert not list((tmp_path / "home").rglob("*.partial"))

    again = run_job("home")
    assert again.result == resumed.result
    began = {event.step for event in again.events if event.kind == "progress"}
    assert Step.MEASURE not in began


def test_an_infeasible_budget_names_the_smallest(tiny: Path, tmp_path: Path) -> None:
    run = run_child(job(tmp_path, tiny, budget=100, sensitivity="weights"))
    problem = run.problem
    assert (problem.type, problem.status) == ("urn:bitbudget:problem:infeasible-budget", 422)
    assert run.status == problem.exit_code == 3
    smallest = problem.fields.minimum_bytes
    found = run_child(
        job(tmp_path, tiny, budget=smallest, sensitivity="weights", deliver="manifest")
    )
    assert found.result["file_bytes"] == smallest


def test_an_output_that_exists_is_refused_at_once(tiny: Path, tmp_path: Path) -> None:
    task = job(tmp_path / "home", tiny).model_copy(update={"output": str(tmp_path)})
    run = run_child(task)
    assert run.problem.status == 409
    assert run.steps == []


def test_a_manifest_of_other_weights_is_refused(tiny: Path, tmp_path: Path) -> None:
    made = run_child(job(tmp_path, tiny, sensitivity="weights", deliver="manifest"))
    other = write_tiny(tmp_path / "other", "llama")
    task = QuantizeTask(
        home=str(tmp_path),
        model=str(other),
        manifest=made.result["manifest"],
        output=str(tmp_path / "out"),
    )
    problem = run_child(task).problem
    assert problem.status == 409
    assert "these weights have" in problem.detail


def test_fit_reads_no_weight(tiny: Path, tmp_path: Path) -> None:
    size = (tiny / "model.safetensors").stat().st_size
    folder = tmp_path / "hollow"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny / "config.json").read_bytes())
    header = (tiny / "model.safetensors").read_bytes()[: 2**15]
    with (folder / "model.safetensors").open("wb") as file:
        file.write(header)
        file.truncate(size)
    run = run_child(FitTask(home=str(tmp_path / "home"), model=str(folder)))
    assert run.result["inventory"]["architecture"]["experts"] == 4
    assert not (tmp_path / "home").exists()


def test_a_task_that_is_none_is_a_problem() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "bitbudget.workers.child"],
        cwd=REPOSITORY,
        input='{"kind": "dance"}',
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    (line,) = ended.stdout.splitlines()
    assert json.loads(line)["problem"]["type"] == "urn:bitbudget:problem:invalid-request"


ORPHANING = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "bitbudget.workers.child"], stdin=subprocess.PIPE)
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_ends_when_its_parent_dies() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANING],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        time.sleep(1)
        os.kill(parent.pid, signal.SIGKILL)
        assert parent.stdin is not None
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running()


def test_two_workers_of_one_home_both_finish_the_same_job(tiny: Path, tmp_path: Path) -> None:
    task = job(tmp_path / "home", tiny, sensitivity="weights")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run_child, [task, task])
    assert first.result["sha256"] == second.result["sha256"]
    assert first.result["checkpoint"] == second.result["checkpoint"]
    assert Path(first.result["checkpoint"], "manifest.json").is_file()
