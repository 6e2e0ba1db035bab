"""Bearer tokens: `<kind>_<id>_<secret>`; only a hash of the secret is ever stored."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from enum import StrEnum

from bitbudget.app.http.errors import UnauthorizedError
from bitbudget.app.storage.ids import is_id

__all__ = ["Token", "TokenKind", "hash_secret", "new_secret", "parse_token"]


class TokenKind(StrEnum):
    """What a token stands for."""

    KEY = "bbk"
    WORKER = "bbw"
    LEASE = "bbl"


@dataclass(frozen=True, slots=True)
class Token:
    """A token taken apart; its text is for the one who holds it, never for a log."""

    kind: TokenKind
    id: str
    secret: str

    def __str__(self) -> str:
        return f"{self.kind}_{self.id}_{self.secret}"

    def __repr__(self) -> str:
        return f"Token({self.kind}_{self.id}_...)"

    def proves(self, id_: str, stored_hash: str) -> bool:
        """Whether this is the token of `id_`, whose secret has this hash (constant time)."""
        return self.id == id_ and hmac.compare_digest(hash_secret(self.secret), stored_hash)

    @classmethod
    def parse(cls, text: str) -> Token | None:
        """Read a token; None for anything else."""
        parts = text.split("_", 2)
        if len(parts) != len(("kind", "id", "secret")):
            return None
        kind, id_, secret = parts
        if kind not in set(TokenKind) or not is_id(id_) or not secret.isascii():
            return None
        return cls(TokenKind(kind), id_, secret)


def parse_token(text: str, kind: TokenKind) -> Token:
    """Return the token that `text` is; UnauthorizedError unless it is one of this kind."""
    token = Token.parse(text)
    if token is None or token.kind is not kind:
        raise UnauthorizedError(reason=f"expected one that begins with {kind}_")
    return token


def new_secret() -> str:
    """Return 256 random bits as URL-safe text."""
    return secrets.token_urlsafe(32)


def hash_secret(secret: str) -> str:
    """Return SHA-256 in hex: enough for 256 random bits, which no one can guess from it."""
    return hashlib.sha256(secret.encode()).hexdigest()
