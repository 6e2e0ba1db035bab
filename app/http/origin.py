"""Where a browser says that a request comes from (Fetch Metadata, and Origin of RFC 6454)."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

__all__ = ["SAFE_METHODS", "is_cross_site", "says_same_origin"]

SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing."""
_SAME: Final = ("same-origin", "none")
_STARTS_WORK: Final = ("/fit",)
"""Pages' questions that may read a model's files."""


def says_same_origin(request: HTTPConnection) -> bool:
    """Whether the browser says that one of our own pages sent this, or its user by hand."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in _SAME
    origin = request.headers.get("origin")
    return origin is not None and _is_ours(request, origin)


def is_cross_site(request: HTTPConnection) -> bool:
    """Whether another site's page sent this and it is more than a link that somebody followed.

    Programs, which say nothing of where a request comes from, are no site.
    """
    headers = request.headers
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is None:
        is_foreign = origin is not None and not _is_ours(request, origin)
    else:
        is_foreign = site not in _SAME
    if not is_foreign:
        return False
    is_link = headers.get("sec-fetch-mode") == "navigate"
    path = request.scope["path"]
    return request.scope["method"] not in SAFE_METHODS or not is_link or path in _STARTS_WORK


def _is_ours(request: HTTPConnection, origin: str) -> bool:
    try:
        return urlsplit(origin).netloc == request.headers.get("host")
    except ValueError:
        return False
