"""A real PostgreSQL server of one's own, from the binaries of Debian's package."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

__all__ = ["Cluster", "can_run", "find_binaries", "running"]


def find_binaries() -> Path | None:
    """The newest server's folder of programs, None when there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    return None if program is None else Path(program).resolve().parent


def can_run() -> bool:
    """PostgreSQL refuses to run as root, and root needs its user to become another."""
    return find_binaries() is not None and (os.geteuid() != 0 or _has_postgres_user())


def _has_postgres_user() -> bool:
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        return False
    return shutil.which("runuser") is not None


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that listens on a socket in its own folder only."""

    folder: Path

    def start(self) -> None:
        """Create the cluster and wait until it answers."""
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-N")
        options = f"-c listen_addresses='' -k {self.folder} -c fsync=off -c max_connections=200"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", self._log, "-o", options, "start")

    def stop(self) -> None:
        """Stop without waiting for clients."""
        self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "stop")

    def restart(self) -> None:
        """Cut every connection, as a failover would."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", "fast", "restart")

    def cut_connections(self) -> None:
        """End every other session, as an administrator or a network would."""
        engine = sa.create_engine(self.url())
        with engine.connect() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
        engine.dispose()

    def url(self, name: str = "postgres") -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"

    def create_database(self, name: str, template: str = "template1") -> str:
        """Make a database and return its URL."""
        engine = sa.create_engine(self.url(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        engine.dispose()
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Remove a database that nothing is connected to any more."""
        engine = sa.create_engine(self.url(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f'DROP DATABASE "{name}" WITH (FORCE)')
        engine.dispose()

    def empty(self, name: str) -> None:
        """Remove the rows of every table: far quicker than a new database."""
        engine = sa.create_engine(self.url(name))
        with engine.begin() as connection:
            tables = set(sa.inspect(connection).get_table_names()) - {"alembic_version"}
            connection.exec_driver_sql(f"TRUNCATE {', '.join(sorted(tables))} CASCADE")
        engine.dispose()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _log(self) -> str:
        return str(self.folder / "log")

    def _run(self, program: str, *arguments: str) -> None:
        binaries = find_binaries()
        if binaries is None:
            msg = "no PostgreSQL programs"
            raise FileNotFoundError(msg)
        as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        subprocess.run(
            [*as_user, str(binaries / program), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            cwd="/",
        )


@contextmanager
def running() -> Iterator[Cluster]:
    """Give a cluster for as long as the block runs; the test is skipped where there can be none."""
    if not can_run():
        pytest.skip("no PostgreSQL server: apt-get install postgresql (and a user other than root)")
    with tempfile.TemporaryDirectory(prefix="bitbudget-pg-") as folder:
        Path(folder).chmod(0o755)
        cluster = Cluster(Path(folder) / "cluster")
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
