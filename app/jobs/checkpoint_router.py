"""HTTP routes of finished checkpoints: what files there are, and each of them."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Path, Response
from fastapi.responses import FileResponse

from bitbudget.app.auth.dependencies import JobsReader
from bitbudget.app.http.problems import Responses, problems
from bitbudget.app.jobs.dependencies import CheckpointStore
from bitbudget.app.jobs.schemas import CheckpointFiles

__all__ = ["router"]

router = APIRouter(prefix="/v1/jobs/{job_id}/checkpoint", tags=["jobs"])

_CONTENT: Final = {"application/octet-stream": {"schema": {"type": "string"}}}
_FILE: Final[Responses] = {
    200: {"content": _CONTENT},
    206: {"description": "The part that `Range` asked for.", "content": _CONTENT},
}


@router.get(
    "",
    operation_id="listCheckpointFiles",
    responses=problems(401, 403, 404, 409, 422, 429, 503),
)
def list_checkpoint_files(
    job_id: str, checkpoints: CheckpointStore, principal: JobsReader
) -> CheckpointFiles:
    """List the files of a job's checkpoint that this server holds; of one's own (any, for admins).

    Where only the worker has it, the answer is 409 and says where.
    """
    return checkpoints.files(job_id, principal)


@router.get(
    "/{name}",
    operation_id="getCheckpointFile",
    response_class=Response,
    responses={**_FILE, **problems(401, 403, 404, 409, 422, 429, 503)},
)
def get_checkpoint_file(
    *,
    job_id: str,
    name: Annotated[str, Path(max_length=255)],
    checkpoints: CheckpointStore,
    principal: JobsReader,
) -> Response:
    """Download one file of a checkpoint, or the part of it that `Range` names."""
    found = checkpoints.file(job_id, name, principal)
    return FileResponse(found, media_type="application/octet-stream", filename=found.name)
