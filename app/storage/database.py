"""The database: one place that opens connections and the only one that commits."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from anyio import to_thread
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.orm import Session

from bitbudget.app.storage.stored import decoded

__all__ = ["Database", "one_at_a_time"]

_WRITES: Final = "bitbudget_writes"
_BUSY_SECONDS: Final = 30.0


class Database:
    """Short transactions on SQLite (WAL, `BEGIN IMMEDIATE` to write) or PostgreSQL."""

    def __init__(self, url: str, *, pool_size: int = 20) -> None:
        self.url: Final = make_url(url)
        self.engine: Final = _engine(self.url, pool_size)
        self._writer: Final = self.engine.execution_options(**{_WRITES: True})
        self._glancing: sqlite3.Connection | None = None

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a SQLite file."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Give a session whose changes, if any, are thrown away."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Give a session that commits when the block ends and rolls back when it raises."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    async def glance(self, query: sa.TextClause, **values: Any) -> Any:
        """Return the first value of a short query on an index.

        SQLite answers it here on the event loop: that takes microseconds, waits for no writer and
        spares the way to a thread and back, which takes longer. Any other database in a thread.
        """
        if self.is_sqlite:
            try:
                return self._glance_at_file().execute(query.text, values).fetchone()[0]
            except sqlite3.OperationalError:  # locked for a moment: a thread may wait
                pass
        return await to_thread.run_sync(partial(self._value, query, values))

    def dispose(self) -> None:
        """Close every connection."""
        if self._glancing is not None:
            self._glancing.close()
            self._glancing = None
        self.engine.dispose()

    def _glance_at_file(self) -> sqlite3.Connection:
        if self._glancing is None:
            (file,), given = self.engine.dialect.create_connect_args(self.url)
            options: dict[str, Any] = {**given, "timeout": 0.0, "check_same_thread": False}
            self._glancing = sqlite3.connect(file, **options)
        return self._glancing

    def _value(self, query: sa.TextClause, values: dict[str, Any]) -> Any:
        with self.read() as session:
            return session.execute(query, values).scalar_one()


def _engine(url: sa.URL, pool_size: int) -> Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_size=pool_size, max_overflow=0, pool_pre_ping=True)
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        connect_args={"timeout": _BUSY_SECONDS},
        json_deserializer=decoded,  # SQLite takes any text for JSON; PostgreSQL does not
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # the driver would begin later than we say
    for pragma in ("journal_mode=WAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def one_at_a_time(session: Session, number: int) -> None:
    """Wait until no other transaction with this number is open; SQLite has one writer anyway."""
    if session.get_bind().dialect.name != "sqlite":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))
