"""Hostile files through the real command line; models in a child process, as always."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitbudget.app.cli.main import main
from tests.hostile import config_cases, folder_cases, manifest_cases, problem_cases
from tests.hostile import safetensors_cases as weight_cases
from tests.hostile.tiny import Case

pytestmark = pytest.mark.hostile

Refuse = Callable[..., None]

MANIFESTS = dict(manifest_cases.cases())
PROBLEMS = dict(problem_cases.cases())
MODELS = {
    case.name: case
    for case in (*weight_cases.cases(), *config_cases.cases(), *folder_cases.cases())
}


@pytest.fixture
def refuse(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Refuse:
    """Run a command that must fail with one JSON problem and no traceback."""
    monkeypatch.setenv("BITBUDGET_HOME", str(tmp_path / "home"))

    def run(*words: object) -> None:
        with pytest.raises(SystemExit) as stop:
            main([*map(str, words), "--json"])
        printed = capfd.readouterr()
        assert stop.value.code in {1, 2, 3}
        assert "Traceback" not in printed.err + printed.out
        problem: dict[str, Any] = json.loads(printed.out)
        assert problem["exit_code"] == stop.value.code
        assert not problem["type"].endswith(("internal", "child-died"))
        assert 10 < len(problem["detail"]) < 1000

    return run


@pytest.mark.parametrize("name", sorted(MANIFESTS)[::6])
def test_manifest(name: str, tmp_path: Path, refuse: Refuse) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(MANIFESTS[name])
    refuse("manifest", "verify", path)


@pytest.mark.parametrize("name", sorted(PROBLEMS)[::8])
def test_problem(name: str, tmp_path: Path, refuse: Refuse) -> None:
    path = tmp_path / ("problem.npz" if name.startswith("ar") else "problem.json")
    path.write_bytes(PROBLEMS[name])
    refuse("solve", path)


@pytest.mark.parametrize(
    "name",
    [
        "weights-is-pickle",
        "config-layers-a-billion",
        "folder-weights-a-pipe",
    ],
)
def test_model(name: str, tmp_path: Path, refuse: Refuse) -> None:
    case: Case = MODELS[name]
    refuse("measure", case.write(tmp_path / "model"), "--sensitivity", "weights")


@pytest.mark.parametrize(
    "words",
    [
        ("measure", "../../etc/passwd"),
        ("solve", "/dev/null"),
        ("manifest", "show", "/proc/self/mem"),
        ("manifest", "show", "/"),
        ("allocate", "missing.json", "--budget", "1GiB"),
        ("allocate", "org/name", "--budget", "5 apples"),
    ],
    ids=" ".join,
)
def test_names(words: tuple[str, ...], refuse: Refuse) -> None:
    refuse(*words)
