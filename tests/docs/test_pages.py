"""What the documents say of the code is true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from bitbudget.app.core.formats import ALL_FORMATS, Mode
from tools.effort_table import effort_table
from tools.import_graph import PICTURES, draw_imports

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
HOW_TO = sorted((DOCS / "contributing").glob("*.md"))
PATH = re.compile(
    r"`((?:app|workers|tests|metal_kernels|migrations|benchmarks|docs|tools)/[\w./-]+)`"
)


@pytest.mark.parametrize(
    "page",
    [*sorted(DOCS.rglob("*.md")), *REPOSITORY.glob("*.md")],
    ids=lambda page: str(page.relative_to(REPOSITORY)),
)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    named = set(PATH.findall(page.read_text()))
    assert {name for name in named if not (REPOSITORY / name).exists()} == set()


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_a_page_on_adding_something_names_its_files(page: Path) -> None:
    rows = [line for line in page.read_text().splitlines() if line.startswith("| `")]
    files = [PATH.findall(row) for row in rows]
    assert files
    assert all(len(found) == 1 and (REPOSITORY / found[0]).is_file() for found in files)


def test_the_pages_on_adding_something_are_listed() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    assert {page.name for page in HOW_TO} == set(
        re.findall(r"docs/contributing/([\w-]+\.md)", text)
    )
    assert len(HOW_TO) == 5


def test_a_format_among_the_candidates_needs_no_other_registration() -> None:
    assert {format_.mode for format_ in ALL_FORMATS} == set(Mode)


def test_every_page_is_reached_from_the_index() -> None:
    reached: set[Path] = set()
    following = {DOCS / "index.md"}
    while following:
        reached |= following
        following = {target for page in following for target in links(page)} - reached
    assert {str(page.relative_to(DOCS)) for page in {*DOCS.rglob("*.md")} - reached} == set()


def test_the_pictures_show_the_imports_of_today() -> None:
    stale = [p.name for p, text in draw_imports().items() if p.file.read_text() != text]
    assert stale == [], "run python -m tools.import_graph"
    assert len(PICTURES) == 2


def test_the_site_is_built_without_a_broken_link(tmp_path: Path) -> None:
    program = str(Path(sys.executable).with_name("mkdocs"))
    ran = subprocess.run(
        [program, "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "index.html").is_file()


def test_workflows_and_templates_can_be_read() -> None:
    files = [*(REPOSITORY / ".github").rglob("*.yml"), REPOSITORY / ".pre-commit-config.yaml"]
    assert all(isinstance(yaml.safe_load(file.read_text()), dict) for file in files)


def test_hosted_ci_runs_the_metal_suite_on_a_mac() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())
    steps = " ".join(step.get("run", "") for step in workflow["jobs"]["macos"]["steps"])
    assert workflow["jobs"]["macos"]["runs-on"] == "macos-14"
    assert "-m metal" in steps


def links(page: Path) -> list[Path]:
    """Return the pages that a page leads to."""
    targets = re.findall(r"\]\(([\w./-]+\.md)(?:#[^)]*)?\)", page.read_text())
    return [(page.parent / target).resolve() for target in targets]


def test_the_page_on_effort_shows_what_each_does() -> None:
    assert effort_table() in (DOCS / "effort.md").read_text()
