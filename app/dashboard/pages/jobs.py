"""The list of jobs and the form for a new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bitbudget.app.core.effort import Effort
from bitbudget.app.core.sensitivity import Sensitivity, objective_of
from bitbudget.app.core.sizes import format_size
from bitbudget.app.dashboard import formatting as words
from bitbudget.app.http.pages import Page
from bitbudget.app.jobs.schemas import Job

__all__ = ["FORM_FIELDS", "job_line", "jobs_page"]

FORM_FIELDS = ("model", "budget", "device", "context", "deliver", "effort")


def jobs_page(
    page: Page[Job],
    *,
    models: Iterable[str],
    devices: Sequence[str],
    form: Mapping[str, str] | None = None,
    error: str = "",
) -> dict[str, Any]:
    """Return what the list shows; `form` and `error` are those of a submission that failed."""
    given = form or {}
    cursor = page.next_cursor
    return {
        "title": "Jobs",
        "section": "Jobs",
        "twin": "/index.json",
        "jobs": [job_line(job) for job in page.items],
        "next": None if cursor is None else f"/?cursor={cursor}",
        "models": sorted(set(models)),
        "efforts": [effort.value for effort in Effort],
        "devices": [{"name": name} for name in devices],
        "form": {name: given.get(name, "") for name in FORM_FIELDS},
        "error": error,
        "fit": "",
    }


def job_line(job: Job) -> dict[str, Any]:
    """Return one job of a list."""
    answer = job.answer
    return {
        "id": job.id,
        "model_name": words.name_of(job.request.model),
        "model": job.request.model,
        "budget": words.budget_words(job.request),
        "status": job.status.value,
        "progress": _progress(job),
        "file_size": "\N{EN DASH}" if answer is None else format_size(answer.file_bytes),
        "file_bytes": None if answer is None else answer.file_bytes,
        "predicted": "\N{EN DASH}"
        if answer is None
        else _predicted(answer.predicted_kl_nats_per_token, job.request.sensitivity),
        "created_at": job.created_at.isoformat(),
        "created_words": words.when(job.created_at),
    }


def _progress(job: Job) -> dict[str, str] | None:
    found = job.progress
    if found is None or job.status.is_final:
        return None
    return {"step": found.step.value, "percent": f"{found.job_fraction:.0%}"}


def _predicted(cost: float, sensitivity: Sensitivity) -> str:
    """Return a KL as it is, and anything else with its name."""
    objective = objective_of(sensitivity)
    return words.kl(cost) if objective.is_kl else f"{words.kl(cost)} ({objective.name})"
