"""The rules of the house that a tool can check."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("app", "bitbudget", "metal_kernels", "workers")
MAX_MODULE_LINES = 400


def _modules() -> list[Path]:
    return [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py")]


def test_imports_follow_the_architecture() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports"))]
    finished = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout


def test_queries_stand_in_repositories() -> None:
    at_home = {"repository.py", "tables.py", "schema.py", "database.py"}
    asks = re.compile(
        r"^\s*import sqlalchemy as sa\b|sqlalchemy import (select|text)", re.MULTILINE
    )
    modules = [path for path in (REPOSITORY / "app").rglob("*.py") if asks.search(path.read_text())]
    assert modules
    assert {path.name for path in modules} <= at_home


def test_no_module_outgrows_its_concept() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in _modules()}
    assert {p.name: n for p, n in lengths.items() if n > MAX_MODULE_LINES} == {}


def test_no_path_of_a_machine_is_in_the_repository() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.toml", "*.yml", "*.sh", "Makefile", ".ci"],  # noqa: S607 - git is found on PATH
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    pattern = re.compile(r"(?<![\w./])/(home|root|work|Users)/\w")
    found = [n for n in tracked if pattern.search((REPOSITORY / n).read_text(errors="replace"))]
    assert found == []


def test_everything_is_imported_as_part_of_bitbudget() -> None:
    pattern = re.compile(
        r"^\s*(from|import) (app|workers|metal_kernels|migrations)\b", re.MULTILINE
    )
    tracked = subprocess.run(
        ["git", "ls-files", "*.py"],  # noqa: S607 - git is found on PATH
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert [name for name in tracked if pattern.search((REPOSITORY / name).read_text())] == []


def test_what_a_module_exports_exists() -> None:
    root = importlib.import_module("bitbudget")
    names = [info.name for info in pkgutil.walk_packages(root.__path__, "bitbudget.")]
    sources = {name: _source(name) for name in names if _source(name).exists()}
    assert sources
    for name, source in sources.items():
        exported = _exported(source)
        defined = _defined(source)
        assert set(exported) <= defined, f"{name} exports what it does not define"


def _source(name: str) -> Path:
    path = REPOSITORY / Path(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _exported(source: Path) -> list[str]:
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            value = ast.literal_eval(node.value)
            assert isinstance(value, list)
            return value
    return []


def _defined(source: Path) -> set[str]:
    tree = ast.parse(source.read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name) for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names
