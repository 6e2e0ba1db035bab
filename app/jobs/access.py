"""Whose jobs a caller may change."""

from __future__ import annotations

from bitbudget.app.auth.principal import Principal, Scope
from bitbudget.app.http.errors import ForbiddenError
from bitbudget.app.jobs.tables import JobRow

__all__ = ["check_owner"]


def check_owner(job: JobRow, principal: Principal) -> None:
    """Raise ForbiddenError unless the caller submitted the job, or is an admin."""
    if job.owner != principal.owner and not principal.may(Scope.ADMIN):
        raise ForbiddenError(scope=f"{Scope.ADMIN}, and the job is another key's")
