"""What a route asks of whoever calls it."""

from __future__ import annotations

from typing import Annotated, Final

from anyio import to_thread
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from bitbudget.app.auth.access import Access
from bitbudget.app.auth.principal import Principal, Scope
from bitbudget.app.auth.service import KeyService
from bitbudget.app.http.dependencies import provided
from bitbudget.app.http.origin import SAFE_METHODS, says_same_origin

__all__ = [
    "TOKEN_COOKIE",
    "Accesses",
    "Admin",
    "BearerToken",
    "JobsReader",
    "JobsWriter",
    "Keys",
    "MeasurementsWriter",
    "WorkerKey",
    "requires",
]

TOKEN_COOKIE: Final = "bitbudget_token"  # noqa: S105 - the cookie's name
Accesses = Annotated[Access, Depends(provided(Access))]
Keys = Annotated[KeyService, Depends(provided(KeyService))]
_scheme: Final = HTTPBearer(auto_error=False, description="An API key, worker or lease token.")


async def _bearer_token(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_scheme)],
) -> str | None:
    if credentials is not None:
        return credentials.credentials
    cookie = request.cookies.get(TOKEN_COOKIE)
    if cookie is not None and request.method not in SAFE_METHODS and not says_same_origin(request):
        return None  # a browser says where a form or a script comes from
    return cookie


BearerToken = Annotated[str | None, Depends(_bearer_token)]


class _Requires:
    """Lets requests with this scope pass."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def __call__(self, access: Accesses, token: BearerToken) -> Principal:
        """Return who calls; UnauthorizedError, ForbiddenError or QuotaExceededError else."""
        if token is None or access.is_home_user(token):  # no query: not worth a thread
            return access.principal(token, self._scope)
        return await to_thread.run_sync(access.principal, token, self._scope)


def requires(scope: Scope) -> _Requires:
    """Return a dependency that lets requests with this scope pass."""
    return _Requires(scope)


JobsReader = Annotated[Principal, Depends(requires(Scope.JOBS_READ))]
JobsWriter = Annotated[Principal, Depends(requires(Scope.JOBS_WRITE))]
MeasurementsWriter = Annotated[Principal, Depends(requires(Scope.MEASUREMENTS_WRITE))]
WorkerKey = Annotated[Principal, Depends(requires(Scope.WORKER))]
Admin = Annotated[Principal, Depends(requires(Scope.ADMIN))]
