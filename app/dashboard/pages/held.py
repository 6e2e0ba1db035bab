"""A checkpoint that a worker holds: trying it, publishing it, and what came of both."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from bitbudget.app.contract.followups import CompareText
from bitbudget.app.contract.reports import UploadResult
from bitbudget.app.contract.texts import LONGEST_PROMPT, MOST_TOKENS, TextComparison, WrittenText
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.decode import speed_basis
from bitbudget.app.core.sizes import format_size
from bitbudget.app.followups.schemas import Followup, FollowupStatus
from bitbudget.app.jobs.schemas import CheckpointFile, Job

__all__ = ["Held", "held_part"]

_PROMPT = "Once upon a time"
_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Held:
    """The newest follow-up of each kind, and the namespace that the worker publishes to.

    `files` are those that the reader may download from this server, at `address`, or a sentence
    that says why not.
    """

    followups: Sequence[Followup]
    publishes_to: str
    files: Sequence[CheckpointFile] | str = ""
    address: str = ""


def held_part(held: Held, job: Job) -> JsonObject:
    """Return what the job's page shows of its checkpoint."""
    by_kind = {followup.kind.value: followup for followup in held.followups}
    tried, published = by_kind.get("compare-text"), by_kind.get("publish")
    asked = tried.asked if tried is not None and isinstance(tried.asked, CompareText) else None
    name = job.request.model.rstrip("/").rsplit("/", 1)[-1]
    folder = "" if job.result is None else job.result.checkpoint or ""
    return {
        "is_live": any(not followup.status.is_final for followup in held.followups),
        "worker": "its worker" if job.worker is None else job.worker.name,
        "prompt": _PROMPT if asked is None else asked.prompt,
        "tokens": _TOKENS if asked is None else asked.tokens,
        "longest_prompt": LONGEST_PROMPT,
        "most_tokens": MOST_TOKENS,
        "tried": None if tried is None else _state(tried),
        "texts": _texts(tried),
        "published": None if published is None else _state(published),
        "link": _link(published),
        "publishes_to": held.publishes_to,
        "repository": f"{held.publishes_to or 'ORG'}/{name}-mixed",
        "download": _download(held, job.id, f"{name}-mixed"),
        "upload": f"bitbudget upload {shlex.quote(folder)} ORG/{name}-mixed",
    }


def _download(held: Held, job_id: str, name: str) -> JsonObject:
    """Return the files of a checkpoint with their links, and the line that fetches them all."""
    if isinstance(held.files, str):
        return {"files": [], "refused": held.files}
    path = f"/v1/jobs/{job_id}/checkpoint"
    all_files = f"{held.address}{path}/{{{','.join(file.name for file in held.files)}}}"
    sends = 'curl --oauth2-bearer "$BITBUDGET_TOKEN"'
    puts = f"-O -C - --create-dirs --output-dir {shlex.quote(name)}"
    return {
        "files": [
            {"name": file.name, "size": format_size(file.bytes), "link": f"{path}/{file.name}"}
            for file in held.files
        ],
        "size": format_size(sum(file.bytes for file in held.files)),
        "command": f"{sends} {puts} {shlex.quote(all_files)}",
    }


def _state(followup: Followup) -> JsonObject:
    words = {FollowupStatus.QUEUED: "waiting for", FollowupStatus.RUNNING: "running on"}
    return {
        "status": followup.status.value,
        "words": words.get(followup.status, ""),
        "problem": None if followup.problem is None else followup.problem.detail,
    }


def _texts(followup: Followup | None) -> JsonObject | None:
    found = None if followup is None else followup.result
    if not isinstance(found, TextComparison):
        return None
    sides = [("Original", found.original), ("This checkpoint", found.result)]
    return {
        "sides": [_side(name, side, found.left_out) for name, side in sides],
        "basis": speed_basis(
            found.bandwidth_bytes_per_second, on_gpu=found.on_gpu, counts_arithmetic=True
        ),
        "same": f"The first {found.same_tokens} tokens are the same."
        if found.original is not None
        else "",
    }


def _side(name: str, side: WrittenText | None, left_out: str) -> JsonObject:
    if side is None:
        return {"name": name, "text": left_out, "figures": []}
    speed = "too short to time"
    if side.tokens_per_second is not None:
        speed = f"{side.tokens_per_second:.1f} tokens/s"
    memory = format_size(side.peak_memory_bytes)
    return {
        "name": name,
        "text": side.text,
        "figures": [
            ("Decoding", speed, f"predicted {side.predicted_tokens_per_second:.1f}"),
            ("Memory at its peak", memory, f"predicted {format_size(side.predicted_memory_bytes)}"),
            ("First token after", f"{side.seconds_to_first_token:.2f} s", ""),
        ],
    }


def _link(followup: Followup | None) -> str:
    found = None if followup is None else followup.result
    if not isinstance(found, UploadResult):
        return ""
    return found.url if found.url.startswith("https://") else ""
