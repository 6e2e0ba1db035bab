"""Bring a database to the schema this version needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, inspect

from bitbudget import migrations
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
    """Apply the migrations that are missing; servers that start together wait for one another."""
    _run(database, command.upgrade, revision)


def downgrade(database: Database, revision: str) -> None:
    """Take migrations back down to `revision` (`base` for none)."""
    _run(database, command.downgrade, revision)


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
