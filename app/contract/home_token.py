"""The token in BITBUDGET_HOME that opens a server on loopback which asks for no keys.

    HomeToken(home).text()    # the server's, made if there is none
    HomeToken(home).known()   # of whoever wants to send it; empty if there is none

Only the home's user can read the file, so other users of the machine cannot drive the server.
"""

from __future__ import annotations

import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["HomeToken"]

_BYTES: Final = 32
_OTHERS: Final = 0o077


class HomeToken:
    """256 random bits in `BITBUDGET_HOME/token`, mode 0600; they outlive the server."""

    def __init__(self, home: Path) -> None:
        self.path: Final = home / "token"
        self._text = ""

    @classmethod
    def of_environment(cls) -> HomeToken:
        """Return that of BITBUDGET_HOME."""
        return cls(Path(os.environ.get("BITBUDGET_HOME") or "~/.bitbudget").expanduser())

    def text(self) -> str:
        """Return the token; one that does not exist, or that others could read, is made anew."""
        if not self._text:
            self._text = self._whole() or self._made()
        return self._text

    def known(self) -> str:
        """Return the token as it is in the file; nothing where there is none to be read."""
        try:
            return self.path.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return ""

    def link(self, page: str) -> str:
        """Return the address of a page with the token, which signs a browser in."""
        return f"{page}?token={self.text()}"

    def proves(self, text: str) -> bool:
        """Whether `text` is the token (constant time)."""
        return hmac.compare_digest(text.encode(errors="replace"), self.text().encode())

    def _whole(self) -> str:
        with suppress(OSError):
            if self.path.stat().st_mode & _OTHERS:
                self.path.unlink()
        return self.known()

    def _made(self) -> str:
        """Write a token and return it, or the one that another process wrote at the same time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".token.{secrets.token_hex(4)}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(_BYTES) + "\n")
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(partial, self.path)
        finally:
            partial.unlink()
        return self.known()
