"""HTTP routes of follow-ups: users ask, the worker that holds the checkpoint answers."""

from __future__ import annotations

from fastapi import APIRouter, Response, status

from bitbudget.app.auth.dependencies import BearerToken, JobsReader, JobsWriter
from bitbudget.app.contract.followups import (
    FollowupClaim,
    FollowupEnd,
    FollowupGrant,
    FollowupRenewal,
    FollowupRequest,
)
from bitbudget.app.followups.dependencies import Followups
from bitbudget.app.followups.schemas import Followup
from bitbudget.app.http.problems import problems
from bitbudget.app.leases.dependencies import LeaseAccessDependency

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["follow-ups"])


@router.post(
    "/jobs/{job_id}/followups",
    operation_id="askFollowup",
    status_code=status.HTTP_202_ACCEPTED,
    responses=problems(400, 401, 403, 404, 409, 413, 422, 429, 503),
)
def ask_followup(
    job_id: str, asked: FollowupRequest, followups: Followups, principal: JobsWriter
) -> Followup:
    """Ask the worker that holds a job's checkpoint to try or to publish it."""
    return followups.ask(job_id, asked, principal)


@router.get(
    "/jobs/{job_id}/followups",
    operation_id="listFollowups",
    responses=problems(401, 403, 404, 422, 429, 503),
)
def list_followups(job_id: str, followups: Followups, _: JobsReader) -> list[Followup]:
    """List the newest follow-up of each kind."""
    return followups.of_job(job_id)


@router.post(
    "/followups",
    operation_id="claimFollowup",
    status_code=status.HTTP_201_CREATED,
    response_model=FollowupGrant,
    responses={
        204: {"description": "There is nothing to do."},
        **problems(400, 401, 404, 413, 422, 503),
    },
)
def claim_followup(
    claim: FollowupClaim, followups: Followups, access: LeaseAccessDependency, token: BearerToken
) -> FollowupGrant | Response:
    """Take the oldest follow-up on a job that this worker did."""
    access.check_worker(token, claim.worker_id)
    return followups.claim(claim.worker_id) or Response(status_code=204)


@router.put(
    "/followups/{followup_id}",
    operation_id="renewFollowup",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems(400, 401, 404, 409, 413, 422, 503),
)
def renew_followup(
    *,
    followup_id: str,
    renewal: FollowupRenewal,
    followups: Followups,
    access: LeaseAccessDependency,
    token: BearerToken,
) -> None:
    """Say that the worker is still at it."""
    access.check_worker(token, renewal.worker_id)
    followups.renew(followup_id, renewal.worker_id)


@router.put(
    "/followups/{followup_id}/result",
    operation_id="endFollowup",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems(400, 401, 404, 409, 413, 422, 503),
)
def end_followup(
    *,
    followup_id: str,
    end: FollowupEnd,
    followups: Followups,
    access: LeaseAccessDependency,
    token: BearerToken,
) -> None:
    """Say what came of it."""
    access.check_worker(token, end.worker_id)
    followups.end(followup_id, end)
