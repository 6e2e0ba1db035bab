from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
REPOSITORY = Path(__file__).resolve().parents[3]


def test_the_demo_proves_itself_and_leaves_nothing_behind(tmp_path: Path) -> None:
    before = untracked()
    environment = {**os.environ, "BITBUDGET_HOME": str(tmp_path / "home")}
    for _ in range(2):
        ran = subprocess.run(
            [sys.executable, "-m", "bitbudget.app.cli", "demo", "--json"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        document = json.loads(ran.stdout)
        assert document["file_bytes"] <= document["budget_bytes"]
        assert sum(document["parts"].values()) == document["file_bytes"]
        ours, uniform = (
            document["baseline"][side]["evaluation"]["kl_nats_per_token"]
            for side in ("ours_at_equal_bytes", "uniform")
        )
        assert ours < uniform
        files = Path(document["checkpoint"]).glob("*.safetensors")
        assert sum(file.stat().st_size for file in files) == document["file_bytes"]
    assert untracked() == before
    assert still_running(str(tmp_path)) == []


def untracked() -> str:
    command = ["git", "status", "--porcelain"]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return ran.stdout


def still_running(home: str) -> list[int]:
    """Return processes whose home this is."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("BITBUDGET_HOME", "").startswith(home):
                found.append(process.pid)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found
