"""Outputs that cannot be made are refused before anything is read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bitbudget.app.contract.home import Home
from bitbudget.app.contract.tasks import MeasureTask
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.workers.pipeline.output import claimed_output
from bitbudget.workers.pipeline.tasks import run_task
from bitbudget.workers.quantize.output import check_output


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("out [4-bit]", "bracket"),
        ("[out", "bracket"),
        ("n" * 250, "a name of 250 bytes"),
        ("ü" * 125, "a name of 250 bytes"),
        ("file/out", "which is no folder"),
        ("file/deep/out", "which is no folder"),
        ("link/out", "which is no folder"),
    ],
)
def test_an_output_that_cannot_be_is_refused_at_once(name: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "missing" / "folder")
    with (
        pytest.raises(InvalidRequestError, match=found),
        claimed_output(tmp_path / name, Home(tmp_path / "home")),
    ):
        pytest.fail("work began")


def test_new_folders_are_no_fault(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b" / "out")
    check_output(tmp_path / ("n" * 240))


def test_a_home_under_a_file_is_refused(sample_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    task = MeasureTask(model=str(sample_model), home=str(tmp_path / "file" / "home"))
    with pytest.raises(InvalidRequestError, match="BITBUDGET_HOME"):
        run_task(task, lambda _: pytest.fail("work began"))


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_folder_that_only_says_that_it_is_writable_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(InvalidRequestError, match="output /proc"),
        claimed_output(Path("/proc/own/out"), Home(tmp_path / "home")),
    ):
        pytest.fail("work began")


def test_a_failed_run_leaves_no_claim(tmp_path: Path) -> None:
    output, home = tmp_path / "out", Home(tmp_path / "home")
    with pytest.raises(ValueError, match="stop"), claimed_output(output, home):
        raise ValueError("stop")
    assert not home.unfinished(output).exists()
