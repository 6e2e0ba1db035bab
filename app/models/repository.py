"""Queries on models and the names that resolved to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.measurement import ModelIdentity
from bitbudget.app.models.rows import inventory_from, model_row
from bitbudget.app.models.tables import ModelNameRow, ModelRow

__all__ = [
    "by_name",
    "inventory_by_name",
    "inventory_of_named",
    "keep",
    "names_of",
    "page",
    "save",
]


def save(
    session: Session, name: str, identity: ModelIdentity, inventory: Inventory, now: datetime
) -> None:
    """Store a model's inventory, and that `name` resolved to it.

    What a worker read replaces what only an imported measurement said of the model, and what
    cannot be read.
    """
    if inventory_of_named(session, identity.digest) is None:
        session.merge(model_row(identity, inventory, now))
        session.flush()
    session.merge(ModelNameRow(name=name, digest=identity.digest, resolved_at=now))
    session.flush()


def keep(session: Session, identity: ModelIdentity, inventory: Inventory, now: datetime) -> None:
    """Store a model that no name resolved to, unless it is known."""
    if session.get(ModelRow, identity.digest) is None:
        session.add(model_row(identity, inventory, now))
        session.flush()


def inventory_of_named(session: Session, digest: str) -> Inventory | None:
    """Return the inventory of weights as a worker read them, None where there is none."""
    row = session.get(ModelRow, digest) if names_of(session, [digest]) else None
    return None if row is None else inventory_from(row)


def by_name(session: Session, name: str) -> ModelRow | None:
    """Return the model that `name`, or a digest, stands for."""
    if not name.isprintable():  # NUL is no text for PostgreSQL
        return None
    named = session.get(ModelNameRow, name)
    return session.get(ModelRow, name if named is None else named.digest)


def inventory_by_name(session: Session, name: str) -> Inventory | None:
    """Return the inventory of the weights that `name`, or a digest, stands for."""
    row = by_name(session, name)
    return None if row is None else inventory_from(row)


def page(session: Session, after: tuple[datetime, str] | None, limit: int) -> Sequence[ModelRow]:
    """Return up to `limit` + 1 models, newest first."""
    here = sa.tuple_(ModelRow.created_at, ModelRow.digest)
    query = sa.select(ModelRow).order_by(ModelRow.created_at.desc(), ModelRow.digest.desc())
    if after is not None:
        moment = sa.bindparam(None, after[0], ModelRow.created_at.type)
        query = query.where(here < sa.tuple_(moment, after[1]))
    return session.scalars(query.limit(limit + 1)).all()


def names_of(session: Session, digests: Iterable[str]) -> dict[str, list[str]]:
    """Return the names that resolved to each model."""
    query = sa.select(ModelNameRow).where(ModelNameRow.digest.in_(list(digests)))
    names: dict[str, list[str]] = {}
    for row in session.scalars(query.order_by(ModelNameRow.name)):
        names.setdefault(row.digest, []).append(row.name)
    return names
