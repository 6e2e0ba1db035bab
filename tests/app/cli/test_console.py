"""What servers and workers say is printed, and does nothing to the terminal."""

from __future__ import annotations

import logging

import pytest
from rich.table import Table

from bitbudget.app.cli.output import stderr
from bitbudget.app.client.transport import Transport

HOSTILE = "\x1b]0;title\x07\x1b[2Jname\x9b31m\u202eexe\x7f"


def test_no_escape_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console = stderr()
    console.print(HOSTILE, markup=False)
    table = Table("model")
    table.add_row(HOSTILE)
    console.print(table)
    told = capsys.readouterr().err
    assert told.count("name") == 2
    assert not set(told) & set("\x1b\x07\x9b\x7f\u202e")


@pytest.mark.parametrize(
    ("server", "warns"),
    [
        ("http://bitbudget.example:8765", True),
        ("http://192.0.2.7", True),
        ("https://bitbudget.example", False),
        ("http://127.0.0.1:8765", False),
        ("http://[::1]:8765", False),
        ("http://localhost:8765", False),
    ],
)
def test_a_token_over_plain_http_to_another_machine_is_warned_of(
    server: str, *, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Transport(server, token="bbk_x_y", timeout_seconds=1).close()
        Transport(server, token=None, timeout_seconds=1).close()
    assert [record.message for record in caplog.records if "plain http" in record.message] == (
        [f"{server} is plain http to another machine: the token can be read on the way; use https"]
        if warns
        else []
    )
