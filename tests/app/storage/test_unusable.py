"""A database that cannot be used is told in one sentence, whatever is wrong with it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from bitbudget.app.cli.main import main
from bitbudget.app.core.errors import UnusableDatabaseError
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.migrate import upgrade


def sound(path: Path) -> None:
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    database.dispose()


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database " * 1000)


def truncated(path: Path) -> None:
    sound(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.truncate(path, path.stat().st_size // 2)


def unknown_revision(path: Path) -> None:
    sound(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()


def missing_table(path: Path) -> None:
    sound(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE artifacts")
        connection.commit()


@pytest.mark.parametrize(
    "damage", [garbage, truncated, Path.mkdir, os.mkfifo, unknown_revision, missing_table]
)
def test_a_damaged_database_is_one_sentence(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "bitbudget.db"
    damage(path)
    database = Database(f"sqlite:///{path}")
    with pytest.raises(UnusableDatabaseError) as caught:
        upgrade(database)
    database.dispose()
    message = str(caught.value)
    assert str(path) in message
    assert "backup" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("home", ["garbage", "/dev/null/home"])
def test_a_command_says_so_and_exits_with_one(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(home) if home.startswith("/") else tmp_path / home
    if not home.startswith("/"):
        folder.mkdir()
        garbage(folder / "bitbudget.db")
    monkeypatch.setenv("BITBUDGET_HOME", str(folder))
    with pytest.raises(SystemExit) as ended:
        main(["key", "list"])
    told = capsys.readouterr()
    assert ended.value.code == 1
    assert "Traceback" not in told.err
    assert str(folder) in told.err


@pytest.mark.parametrize("command", ["key list", "serve --port 0", "demo"])
def test_a_home_that_may_not_be_written_is_one_sentence(command: str, tmp_path: Path) -> None:
    home, without_rights = _home_of_another_user(tmp_path)
    answer = subprocess.run(
        [*without_rights, sys.executable, "-m", "bitbudget.app.cli", *command.split()],
        env=os.environ | {"BITBUDGET_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 1, answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert str(home) in answer.stderr
    assert "backup" not in answer.stderr


def _home_of_another_user(folder: Path) -> tuple[Path, list[str]]:
    """Return a folder that may be read only, and what to begin a command with for that to hold.

    Root may write everywhere, unless its process gives up the rights to.
    """
    if os.geteuid() != 0:
        return Path("/usr"), []
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere: run as another user, or install util-linux")
    home = folder / "home"
    home.mkdir(mode=0o755)
    os.chown(home, 65534, 65534)
    rights = "-dac_override,-fowner"
    return home, ["setpriv", "--bounding-set", rights, "--inh-caps", rights]
