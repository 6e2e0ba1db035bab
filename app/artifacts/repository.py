"""Queries on artifacts."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bitbudget.app.artifacts.tables import ArtifactRow

__all__ = ["BLOBS", "find", "is_needed", "of_job", "referenced_digests", "save"]

BLOBS: Final = 0x626C6F62
"""Held, of `one_at_a_time`, by who makes a blob needed or removes one that is not."""


def save(
    session: Session,
    *,
    job_id: str,
    name: str,
    sha256: str,
    nbytes: int,
    attempt: int,
    now: datetime,
) -> None:
    """Record an artifact; a later upload under the same name replaces it."""
    session.merge(
        ArtifactRow(
            job_id=job_id,
            name=name,
            sha256=sha256,
            nbytes=nbytes,
            attempt=attempt,
            created_at=now,
        )
    )


def find(session: Session, job_id: str, name: str) -> ArtifactRow | None:
    """Return the artifact of a job by name."""
    return session.get(ArtifactRow, (job_id, name))


def of_job(session: Session, job_id: str) -> list[ArtifactRow]:
    """Return a job's artifacts by name."""
    query = sa.select(ArtifactRow).where(ArtifactRow.job_id == job_id).order_by(ArtifactRow.name)
    return list(session.scalars(query))


def is_needed(session: Session, digest: str) -> bool:
    """Whether some job has an artifact with this digest."""
    query = sa.select(ArtifactRow.job_id).where(ArtifactRow.sha256 == digest).limit(1)
    return session.scalars(query).first() is not None


def referenced_digests(session: Session) -> set[str]:
    """Return the digests that some job still needs."""
    return set(session.scalars(sa.select(ArtifactRow.sha256).distinct()))
