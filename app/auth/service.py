"""Keys: made once, shown once, checked on every request, revoked for good."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pydantic import TypeAdapter

from bitbudget.app.auth import repository
from bitbudget.app.auth.principal import Principal, Scope
from bitbudget.app.auth.tables import KeyRow
from bitbudget.app.auth.tokens import Token, TokenKind, hash_secret, new_secret, parse_token
from bitbudget.app.core.errors import ConflictError, InvalidRequestError, NotFoundError
from bitbudget.app.http.errors import UnauthorizedError
from bitbudget.app.storage.database import Database
from bitbudget.app.storage.ids import Clock, new_id
from bitbudget.app.storage.stored import read_adapted

__all__ = ["ApiKey", "KeyService", "NewKey"]

_SCOPES: Final = TypeAdapter(tuple[Scope, ...])
_USED_EVERY: Final = timedelta(minutes=1)
"""How exact `last used` is; a write per request would cost more than it tells."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What can be said of a key without its token."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made; the token cannot be shown again."""

    key: ApiKey
    token: str


@dataclass(frozen=True, slots=True)
class KeyService:
    """The keys of this server."""

    database: Database
    clock: Clock

    def create(self, name: str, scopes: Iterable[Scope], *, days: float | None = None) -> NewKey:
        """Make a key; `days` is how long it is good for, None for ever."""
        granted = sorted(set(scopes))
        if not granted or not name.strip():
            raise InvalidRequestError(
                where="key",
                found=f"name {name!r}, scopes {[str(scope) for scope in granted]}",
                expected=f"a name and at least one of {', '.join(Scope)}",
                remedy="write for example bitbudget key create laptop --scope jobs:write",
            )
        now = self.clock()
        secret = new_secret()
        row = KeyRow(
            id=new_id(now),
            name=name,
            token_hash=hash_secret(secret),
            scopes=[str(scope) for scope in granted],
            created_at=now,
            expires_at=None if days is None else now + timedelta(days=days),
        )
        with self.database.write() as session:
            session.add(row)
        return NewKey(_view(row), str(Token(TokenKind.KEY, row.id, secret)))

    def keys(self) -> list[ApiKey]:
        """Return every key, newest first."""
        with self.database.read() as session:
            return [_view(row) for row in repository.all_keys(session)]

    def named(self, text: str) -> ApiKey:
        """Return the key of this id, name or beginning of an id; one in use before revoked ones.

        Raises NotFoundError for none, ConflictError for several.
        """
        keys = self.keys()
        fitting = [key for key in keys if text == key.id] or [
            key for key in keys if text == key.name or (text and key.id.startswith(text))
        ]
        found = [key for key in fitting if key.revoked_at is None] or fitting
        if not found:
            raise NotFoundError(what="key", name=text)
        if len(found) > 1:
            raise ConflictError(
                what="Key",
                name=text,
                reason=f"{len(found)} keys have this name or beginning",
                remedy=f"use one of the ids {', '.join(key.id for key in found)}",
            )
        return found[0]

    def revoke(self, key_id: str) -> ApiKey:
        """Make a key useless from now on; NotFoundError when there is none."""
        with self.database.write() as session:
            row = repository.get(session, key_id)
            row.revoked_at = row.revoked_at or self.clock()
            return _view(row)

    def has_usable(self) -> bool:
        """Whether any key would be accepted."""
        with self.database.read() as session:
            return repository.has_usable(session, self.clock())

    def is_usable(self, key_id: str) -> bool:
        """Whether this key would be accepted now."""
        with self.database.read() as session:
            return repository.is_usable(session, key_id, self.clock())

    def principal(self, text: str) -> Principal:
        """Return whose key this is; UnauthorizedError when it is no one's."""
        token = parse_token(text, TokenKind.KEY)
        now = self.clock()
        with self.database.read() as session:
            row = repository.find(session, token.id)
        if row is None or not token.proves(row.id, row.token_hash):
            raise UnauthorizedError(reason="this one is not known")
        if row.revoked_at is not None:
            raise UnauthorizedError(reason="this one was revoked")
        if row.expires_at is not None and row.expires_at <= now:
            raise UnauthorizedError(reason="this one has expired")
        if row.used_at is None or now - row.used_at >= _USED_EVERY:
            self._note_use(row.id, now)
        return Principal(row.id, frozenset(_scopes(row)))

    def _note_use(self, key_id: str, now: datetime) -> None:
        with self.database.write() as session:
            repository.get(session, key_id).used_at = now


def _scopes(row: KeyRow) -> tuple[Scope, ...]:
    """Return what a key may do: nothing, where what is stored of that cannot be read."""
    return read_adapted(_SCOPES, row.scopes, "scopes", f"key {row.id}") or ()


def _view(row: KeyRow) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        scopes=_scopes(row),
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.used_at,
        revoked_at=row.revoked_at,
    )
