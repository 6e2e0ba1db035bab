"""Files that are read for somebody else, and text that reaches terminals and spreadsheets."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from bitbudget.app.contract.events import Logged, Progress
from bitbudget.app.contract.steps import Step
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.dashboard.figures.figure import Figure
from bitbudget.app.http.logs import configure_logging
from bitbudget.workers.models.given import belongs_to, read_given
from bitbudget.workers.pipeline.options import user_text
from tests.hostile.conftest import Refused

pytestmark = pytest.mark.hostile
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m"


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/urandom", "/dev/tty", "/", "/nowhere", "a\0b"])
def test_a_text_that_is_no_file_is_refused(refused: Refused, path: str) -> None:
    with refused():
        user_text(Path(path))


def test_a_pipe_is_refused_without_waiting(refused: Refused, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "text")
    with refused():
        user_text(tmp_path / "text")


def test_a_file_larger_than_it_may_be_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes(b"x" * 11)
    with pytest.raises(InvalidRequestError):
        read_given(file, 10)
    assert read_given(file, 11) == b"x" * 11


def test_a_link_out_of_a_model_is_not_its_companion(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("private")
    model = tmp_path / "model"
    model.mkdir()
    (model / "LICENSE").symlink_to(secret)
    (model / "loop").symlink_to(model / "loop")
    (model / "NOTICE").write_text("ours")
    (model / "LICENSE.txt").symlink_to(model / "NOTICE")
    assert not belongs_to(model / "LICENSE", model)
    assert not belongs_to(model / "loop", model)
    assert belongs_to(model / "LICENSE.txt", model)


def test_a_model_of_the_hubs_cache_has_its_blobs(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / "abc"
    blob.parent.mkdir()
    blob.write_text("{}")
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "tokenizer.json").symlink_to(blob)
    assert belongs_to(snapshot / "tokenizer.json", snapshot)


def test_no_escape_sequence_passes_the_contract() -> None:
    progress = Progress(step=Step.MEASURE, detail=ESCAPES, unit=ESCAPES)
    logged = Logged(detail=ESCAPES)
    for text in (progress.detail, progress.unit, logged.detail):
        assert text.isprintable()


def test_no_escape_sequence_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    configure_logging("info", "text")
    try:
        logging.getLogger("x").info("%s", ESCAPES, extra={"fields": {"path": f"/{ESCAPES}"}})
    finally:
        root.handlers[:], root.level = before, level
    told = capsys.readouterr().err
    assert "owned" in told
    assert not set(told) & {"\x1b", "\x07", "\x9b"}


def test_no_cell_is_a_formula() -> None:
    rows = (("=cmd()", 1.5), ("+1", -2.0), ("@x", 0), ("-x", None), ("fine", 3))
    figure = Figure(name="x", title="x", summary="x", columns=("name", "value"), rows=rows)
    lines = figure.csv().splitlines()[1:]
    assert [line[0] for line in lines] == ["'", "'", "'", "'", "f"]
    assert lines[1] == "'+1,-2.0"
