from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from bitbudget.app.server.tables import Base
from bitbudget.app.storage import migrate
from bitbudget.app.storage.database import Database
from tests.support.postgres import Cluster


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without any table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    cluster: Cluster = request.getfixturevalue("postgres_cluster")
    return cluster.create_database(f"e{uuid.uuid4().hex}")


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    """A connection to it."""
    database = Database(empty_url)
    yield database
    database.dispose()


def tables(database: Database) -> set[str]:
    return set(sa.inspect(database.engine).get_table_names()) - {"alembic_version"}


def test_up_down_and_up_again(empty: Database) -> None:
    assert not migrate.is_current(empty)
    migrate.upgrade(empty)
    assert migrate.is_current(empty)
    assert migrate.schema_differences(empty, Base.metadata) == []
    migrate.downgrade(empty, "base")
    assert tables(empty) - {"sqlite_sequence"} == set()
    migrate.upgrade(empty)
    migrate.upgrade(empty)
    assert migrate.schema_differences(empty, Base.metadata) == []


def test_servers_that_start_together_migrate_once(empty_url: str) -> None:
    def start(_: int) -> bool:
        database = Database(empty_url)
        migrate.upgrade(database)
        current = migrate.is_current(database)
        database.dispose()
        return current

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(start, range(4)))
