"""Bearer tokens: `<kind>_<id>_<secret>`; only a hash of the secret is ever stored."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from enum import StrEnum

from bitbudget.app.storage.ids import is_id

__all__ = ["Token", "TokenKind", "hash_secret", "new_secret", "secret_matches"]


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


def new_secret() -> str:
    """Return 256 random bits as URL-safe text."""
    return secrets.token_urlsafe(32)


def hash_secret(secret: str) -> str:
    """Return SHA-256 in hex: enough for 256 random bits, which no one can guess from it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def secret_matches(secret: str, stored_hash: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(hash_secret(secret), stored_hash)
