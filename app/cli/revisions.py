"""What a terminal says of the answers of a job, each of which refines the one before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitbudget.app.core.sensitivity import objective_of
from bitbudget.app.core.sizes import format_size

if TYPE_CHECKING:
    from bitbudget.app.contract.reports import Revision

__all__ = ["kept_words", "manifest_address", "revision_words"]


def revision_words(answer: Revision) -> str:
    """Return the number and the head of an answer, as `answer 1 (effort quick): 2.9 MiB, ...`."""
    goal = objective_of(answer.sensitivity)
    return (
        f"answer {answer.revision} (effort {answer.effort.value}):"
        f" {format_size(answer.file_bytes)}, {answer.bits_per_weight:.2f} bits per weight,"
        f" {goal.label} {answer.predicted_kl_nats_per_token:.3g} {goal.unit}"
    )


def kept_words(answer: Revision | None, server: str, job_id: str) -> str:
    """Return which answer a job that did not come to its end keeps, "" where it has none."""
    if answer is None:
        return ""
    address = manifest_address(server, job_id, answer)
    return f"{revision_words(answer)} is kept: {address}"


def manifest_address(server: str, job_id: str, answer: Revision) -> str:
    """Return where the manifest of one revision is downloaded."""
    return f"{server}/v1/jobs/{job_id}/manifest?revision={answer.revision}"
