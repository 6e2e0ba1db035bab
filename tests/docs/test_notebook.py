"""The example notebook runs, and shows what is kept in it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOK = REPOSITORY / "docs" / "notebook.ipynb"
MOST_SECONDS = 120
MOST_BYTES = 50_000


def shown(notebook: Path) -> list[list[dict[str, Any]]]:
    """What each cell of code shows; what it prints may come in parts and is joined."""
    cells = json.loads(notebook.read_bytes())["cells"]
    return [joined(cell["outputs"]) for cell in cells if cell["cell_type"] == "code"]


def joined(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outputs with neighbouring parts of one stream made one."""
    whole: list[dict[str, Any]] = []
    for each in outputs:
        if whole and "stream" == whole[-1]["output_type"] == each["output_type"]:
            whole[-1] = {**whole[-1], "text": [*whole[-1]["text"], *each["text"]]}
        else:
            whole.append(each)
    return whole


def sizes(outputs: list[dict[str, Any]]) -> list[str]:
    """The budgets with the bytes of their answers; KL rounds otherwise on other processors."""
    lines = "".join(outputs[0]["text"]).splitlines()
    return [line.partition(" bytes")[0] for line in lines]


def processor_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.e2e
def test_the_notebook_runs_and_shows_what_is_kept(tmp_path: Path) -> None:
    own = {"BITBUDGET_HOME": tmp_path / "home", "IPYTHONDIR": tmp_path / "ipython"}
    environment = {**os.environ, "PYTHONPATH": REPOSITORY, **own}
    output = tmp_path / "out.ipynb"
    began = processor_seconds_of_children()
    subprocess.run(
        [sys.executable, "-m", "tools.notebook", str(output)],
        env={name: str(value) for name, value in environment.items()},
        cwd=REPOSITORY,
        check=True,
    )
    assert processor_seconds_of_children() - began < MOST_SECONDS
    found, kept = shown(output), shown(NOTEBOOK)
    kinds = [[[each["output_type"] for each in cell] for cell in cells] for cells in (found, kept)]
    assert kinds[0] == kinds[1]
    assert all(kinds[1])
    assert sizes(found[1]) == sizes(kept[1])
    assert found[2] == kept[2]


def test_the_kept_outputs_are_small_and_name_no_place() -> None:
    data = NOTEBOOK.read_text()
    assert len(data) < MOST_BYTES
    assert not [place for place in ("/tmp", "/home", str(REPOSITORY)) if place in data]  # noqa: S108
