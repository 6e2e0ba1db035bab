from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bitbudget.app.core.errors import InvalidModelError
from bitbudget.workers.cluster.batches import WorkerFailedError
from bitbudget.workers.cluster.isolated_call import Parcel, run_apart

ROOT = Path(__file__).resolve().parents[3]
WAIT_SECONDS = 30.0


def surroundings(name: str) -> list[object]:
    print("what a library prints is no part of the answer")  # noqa: T201
    in_main = threading.current_thread() is threading.main_thread()
    return [os.environ.get(name), in_main, os.getpid()]


def broken(name: str) -> Iterator[str]:
    yield name
    raise InvalidModelError(where=name, found="NaN", expected="numbers", remedy="fetch it again")


def killed(_: str) -> list[str]:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


def asleep(file: str) -> list[str]:
    Path(file).write_text(str(os.getpid()))
    time.sleep(10 * WAIT_SECONDS)
    return []


def test_a_process_of_its_own_has_the_blas_threads_of_the_sender(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "OPENBLAS_NUM_THREADS"
    monkeypatch.setenv(name, "3")
    parcel = Parcel.of("a", surroundings, name)
    monkeypatch.setenv(name, "1")
    threads, in_main, process = run_apart(parcel)
    assert (threads, in_main) == ("3", True)
    assert process != os.getpid()


def test_its_error_is_raised() -> None:
    with pytest.raises(InvalidModelError, match=r"^model\.layers\.3: found NaN"):
        run_apart(Parcel.of("a", broken, "model.layers.3"))


def test_its_death_is_an_error_that_names_the_call() -> None:
    with pytest.raises(WorkerFailedError, match=r"^layer 3: .*SIGKILL"):
        run_apart(Parcel.of("layer 3", killed, ""))


def test_it_ends_with_who_asked(tmp_path: Path) -> None:
    file = tmp_path / "process"
    asking = (
        f"from {__name__} import asleep; "
        "from bitbudget.workers.cluster.isolated_call import Parcel, run_apart; "
        f"run_apart(Parcel.of('a', asleep, {str(file)!r}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", asking], env=environment) as asker:
        until(lambda: file.exists() and file.read_text() != "")
        process = int(file.read_text())
        asker.kill()
    until(lambda: not is_running(process))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
