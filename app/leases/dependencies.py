"""What routes of leases ask of the server and of whoever calls them."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Depends

from bitbudget.app.auth.dependencies import BearerToken
from bitbudget.app.http.dependencies import provided
from bitbudget.app.leases.access import LeaseAccess
from bitbudget.app.leases.service import LeaseService
from bitbudget.app.leases.uploads import Uploads

__all__ = ["HELD_BY_CALLER", "LeaseAccessDependency", "Leases", "UploadsDependency"]

Leases = Annotated[LeaseService, Depends(provided(LeaseService))]
LeaseAccessDependency = Annotated[LeaseAccess, Depends(provided(LeaseAccess))]
UploadsDependency = Annotated[Uploads, Depends(provided(Uploads))]


def _held_by_caller(lease_id: str, access: LeaseAccessDependency, token: BearerToken) -> None:
    access.check_lease(token, lease_id)


HELD_BY_CALLER: Final = Depends(_held_by_caller)
"""Lets a request pass whose token is that of the lease in its path."""
