from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from bitbudget.app.jobs.tables import EventRow, JobRow
from bitbudget.app.storage.database import Database

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=2)))


def job(**changed: object) -> JobRow:
    fields = {
        "id": "a" * 32,
        "status": "queued",
        "request": {},
        "model": "m",
        "request_digest": "d",
        "created_at": NOW,
        **changed,
    }
    return JobRow(**fields)


def test_times_keep_their_instant(database: Database) -> None:
    with database.write() as session:
        session.add(job())
    with database.read() as session:
        found = session.get_one(JobRow, "a" * 32)
    assert found.created_at == NOW
    assert found.created_at.tzinfo is UTC


def test_a_block_that_raises_changes_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as session:
            session.add(job())
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.read() as session:
        assert session.get(JobRow, "a" * 32) is None


def test_reading_throws_changes_away(database: Database) -> None:
    with database.read() as session:
        session.add(job())
        session.flush()
    with database.read() as session:
        assert session.get(JobRow, "a" * 32) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "lost"},
        {"status": "running"},
        {"status": "succeeded"},
        {"finished_at": NOW},
        {"status": "failed", "finished_at": NOW},
        {"strikes": 1},
        {"attempt": -1},
        {"worker_id": "f" * 32},
    ],
)
def test_a_job_that_cannot_be_is_refused(database: Database, changed: dict[str, object]) -> None:
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(job(**changed))


def test_one_owner_uses_a_key_once(database: Database) -> None:
    with database.write() as session:
        session.add(job(idempotency_key="k"))
        session.add(job(id="b" * 32, idempotency_key="k", owner="other"))
        session.add(job(id="c" * 32))
        session.add(job(id="d" * 32))
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(job(id="e" * 32, idempotency_key="k"))


def test_events_go_with_their_job_and_their_numbers_are_not_used_again(database: Database) -> None:
    def add() -> int:
        with database.write() as session:
            session.add(job())
            event = EventRow(job_id="a" * 32, kind="queued", at=NOW, data={})
            session.flush()
            session.add(event)
            session.flush()
            return event.id

    first = add()
    with database.write() as session:
        session.execute(sa.delete(JobRow))
    assert add() > first


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_sqlite_writes_ahead(database: Database) -> None:
    with database.read() as session:
        assert session.execute(sa.text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert session.execute(sa.text("PRAGMA foreign_keys")).scalar_one() == 1
