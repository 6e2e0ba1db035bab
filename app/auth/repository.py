"""Queries on API keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bitbudget.app.auth.tables import KeyRow
from bitbudget.app.core.errors import NotFoundError
from bitbudget.app.storage.ids import is_id

__all__ = ["REVOKED", "all_keys", "find", "get", "has_usable", "is_usable"]

REVOKED: Final = sa.text("SELECT count(*) FROM api_keys WHERE revoked_at IS NOT NULL")
"""A number that differs once another key was revoked."""


def find(session: Session, key_id: str) -> KeyRow | None:
    """Return a key, None when there is none."""
    return session.get(KeyRow, key_id) if is_id(key_id) else None


def get(session: Session, key_id: str) -> KeyRow:
    """Return a key; NotFoundError when there is none."""
    row = find(session, key_id)
    if row is None:
        raise NotFoundError(what="key", name=key_id)
    return row


def all_keys(session: Session) -> Sequence[KeyRow]:
    """Return every key, newest first."""
    return session.scalars(sa.select(KeyRow).order_by(KeyRow.id.desc())).all()


def is_usable(session: Session, key_id: str, now: datetime) -> bool:
    """Whether this key is neither revoked nor out of date."""
    key = find(session, key_id)
    if key is None or key.revoked_at is not None:
        return False
    return key.expires_at is None or key.expires_at > now


def has_usable(session: Session, now: datetime) -> bool:
    """Whether there is a key that is neither revoked nor out of date."""
    query = sa.select(KeyRow.id).where(
        KeyRow.revoked_at.is_(None),
        sa.or_(KeyRow.expires_at.is_(None), KeyRow.expires_at > now),
    )
    return session.scalars(query.limit(1)).first() is not None
