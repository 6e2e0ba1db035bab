"""HTTP routes of leases; only workers call them."""

from __future__ import annotations

import base64
import binascii
import re
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Header, Query, Request, Response, status

from bitbudget.app.artifacts.names import ArtifactName
from bitbudget.app.auth.dependencies import BearerToken
from bitbudget.app.contract.leases import (
    LeaseClaim,
    LeaseGrant,
    LeaseRenewal,
    LeaseResult,
    LeaseStatus,
    StoredArtifact,
)
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.http.problems import Responses, problems
from bitbudget.app.leases.dependencies import (
    HELD_BY_CALLER,
    LeaseAccessDependency,
    Leases,
    UploadsDependency,
)

__all__ = ["router"]

router = APIRouter(prefix="/v1/leases", tags=["leases"])

_SHA256_BYTES: Final = 32
_DIGEST: Final = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):")
_BODY: Final[JsonObject] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string"}}},
    }
}
_NO_JOB: Final[Responses] = {
    204: {
        "description": "There is no job; ask again after Retry-After seconds.",
        "headers": {"Retry-After": {"schema": {"type": "integer"}}},
    }
}
_FILE: Final[Responses] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string"}}}}
}
Attempt = Annotated[int, Query(ge=1, le=2**31 - 1)]
ContentDigest = Annotated[
    str,
    Header(
        max_length=1024,
        description="RFC 9530: `sha-256=:<base64>:`.",
        json_schema_extra={"pattern": "^sha-256=:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=:$"},
    ),
]


@router.post(
    "",
    operation_id="claimLease",
    status_code=status.HTTP_201_CREATED,
    response_model=LeaseGrant,
    responses={**_NO_JOB, **problems(400, 401, 404, 413, 422, 503)},
)
def claim_lease(
    claim: LeaseClaim, leases: Leases, access: LeaseAccessDependency, token: BearerToken
) -> LeaseGrant | Response:
    """Take the oldest queued job for one attempt."""
    access.check_worker(token, claim.worker_id)
    grant = leases.claim(claim.worker_id)
    if grant is not None:
        return grant
    seconds = max(1, round(leases.intervals.poll_seconds))
    return Response(status_code=204, headers={"Retry-After": str(seconds)})


@router.put(
    "/{lease_id}",
    operation_id="renewLease",
    dependencies=[HELD_BY_CALLER],
    responses=problems(400, 401, 404, 410, 413, 422, 503),
)
def renew_lease(lease_id: str, renewal: LeaseRenewal, leases: Leases) -> LeaseStatus:
    """Keep a lease, say how far the work is, and hear whether to stop."""
    return leases.renew(lease_id, renewal)


@router.put(
    "/{lease_id}/artifacts/{name}",
    operation_id="putArtifact",
    dependencies=[HELD_BY_CALLER],
    openapi_extra=_BODY,
    responses=problems(400, 401, 404, 409, 410, 413, 422, 503),
)
async def put_artifact(
    *,
    lease_id: str,
    name: ArtifactName,
    attempt: Attempt,
    request: Request,
    leases: Leases,
    uploads: UploadsDependency,
    content_digest: ContentDigest,
) -> StoredArtifact:
    """Upload a file of the attempt; its digest is checked, and so is what it says."""
    expected = _sha256_of_header(content_digest)
    put = partial(leases.put_artifact, lease_id, attempt, name, expected)
    return await uploads.run(request, put)


@router.get(
    "/{lease_id}/artifacts/{name}",
    operation_id="getArtifact",
    dependencies=[HELD_BY_CALLER],
    response_class=Response,
    responses={**_FILE, **problems(401, 404, 410, 422, 503)},
)
def get_artifact(lease_id: str, name: ArtifactName, attempt: Attempt, leases: Leases) -> Response:
    """Download a file that an earlier attempt, or the server, made for the job."""
    data = leases.get_artifact(lease_id, attempt, name)
    return Response(data, media_type="application/octet-stream")


@router.put(
    "/{lease_id}/result",
    operation_id="finishLease",
    dependencies=[HELD_BY_CALLER],
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems(400, 401, 404, 409, 410, 413, 422, 503),
)
def finish_lease(lease_id: str, result: LeaseResult, leases: Leases) -> None:
    """End the attempt; the same end sent twice is accepted twice."""
    leases.finish(lease_id, result)


def _sha256_of_header(header: str) -> str:
    match = _DIGEST.search(header)
    try:
        digest = base64.b64decode(match[1], validate=True) if match else b""
    except binascii.Error:
        digest = b""
    if len(digest) != _SHA256_BYTES:
        raise InvalidRequestError(
            where="Content-Digest",
            found=repr(header)[:80],
            expected="sha-256=:<base64 of the SHA-256>:",
            remedy="see RFC 9530",
        )
    return digest.hex()
