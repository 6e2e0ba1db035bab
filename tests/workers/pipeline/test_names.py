"""A name that reads as a Hub id is no folder for a task that comes from a server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bitbudget.app.contract.reports import FitResult
from bitbudget.app.contract.tasks import FitTask
from bitbudget.app.core.errors import BitbudgetError
from bitbudget.workers.pipeline.tasks import run_task


def test_a_folder_beside_the_process_is_not_read_for_a_server(
    sample_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(sample_model, tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    own = FitTask(home=str(tmp_path), model="org/name")
    assert isinstance(run_task(own, print), FitResult)
    with pytest.raises(BitbudgetError) as refused:
        run_task(own.model_copy(update={"names_are_ids": True}), print)
    assert str(tmp_path) not in str(refused.value)
