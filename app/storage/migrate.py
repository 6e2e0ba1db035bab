"""Bring a database to the schema this version needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import MetaData, inspect
from sqlalchemy.exc import DatabaseError

from bitbudget import migrations
from bitbudget.app.core.errors import UnusableDatabaseError
from bitbudget.app.storage.database import Database, one_at_a_time
from bitbudget.app.storage.schema import Base

__all__ = ["downgrade", "head_revision", "is_current", "schema_differences", "upgrade"]

_LOCK_NUMBER: Final = 0x62697462


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(database: Database, revision: str = "head") -> None:
    """Apply the migrations that are missing; servers that start together wait for one another.

    Raises UnusableDatabaseError for a database that is damaged or of another version, that cannot
    be written, or that is no file.
    """
    _check_file(database)
    try:
        _run(database, command.upgrade, revision)
        is_whole = revision != "head" or is_current(database)
    except (DatabaseError, CommandError) as error:
        raise _unusable(database, _first_line(error)) from error
    if not is_whole:
        raise _unusable(database, "tables are missing")


def downgrade(database: Database, revision: str) -> None:
    """Take migrations back down to `revision` (`base` for none)."""
    _run(database, command.downgrade, revision)


def _check_file(database: Database) -> None:
    """Refuse a folder, a pipe or a device, which SQLite would wait for or call by another name."""
    name = database.url.database
    if database.is_sqlite and name and Path(name).exists() and not Path(name).is_file():
        raise _unusable(database, "it is no regular file")


def _unusable(database: Database, reason: str) -> UnusableDatabaseError:
    mend = "restore it from a backup" if _may_write(database) else "make its folder writable"
    return UnusableDatabaseError(
        database=database.url.render_as_string(hide_password=True),
        reason=reason,
        remedy=f"{mend}, or name another with BITBUDGET_DATABASE_URL or BITBUDGET_HOME",
    )


def _may_write(database: Database) -> bool:
    """Whether this user may write into the folder of a file, where SQLite has files of its own."""
    name = database.url.database
    return not (database.is_sqlite and name) or os.access(Path(name).parent, os.W_OK)


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().split("\n")[0][:300]


def _run(database: Database, action: Callable[[Config, str], None], revision: str) -> None:
    config = _config()
    with database.write() as session:
        connection = session.connection()
        one_at_a_time(session, _LOCK_NUMBER)
        config.attributes["connection"] = connection
        action(config, revision)


def head_revision() -> str:
    """Return the revision this version of the code needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    return head or ""


def is_current(database: Database) -> bool:
    """Whether the database says that it has the schema this version needs, and has its tables."""
    with database.read() as session:
        context = MigrationContext.configure(session.connection())
        tables = set(inspect(session.connection()).get_table_names())
        is_whole = tables.issuperset(Base.metadata.tables)
        return is_whole and context.get_current_revision() == head_revision()


def schema_differences(database: Database, metadata: MetaData) -> list[object]:
    """Return what `alembic revision --autogenerate` would still change to reach `metadata`."""
    with database.read() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        return list(compare_metadata(context, metadata))
