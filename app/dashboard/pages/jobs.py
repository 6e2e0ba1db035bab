"""The list of jobs and the form for a new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.devices import DEVICES
from bitbudget.app.core.effort import Effort
from bitbudget.app.core.encoders import Encoder
from bitbudget.app.core.memory import KV_BITS
from bitbudget.app.core.recover import Recover
from bitbudget.app.core.requests import Rotation
from bitbudget.app.core.runtime import Runtime
from bitbudget.app.core.sensitivity import Sensitivity, objective_of
from bitbudget.app.core.sizes import format_size
from bitbudget.app.dashboard import formatting as words
from bitbudget.app.dashboard.forms import FORM_FIELDS
from bitbudget.app.http.pages import Page
from bitbudget.app.jobs.repository import Wanted
from bitbudget.app.jobs.schemas import Job
from bitbudget.app.jobs.status import JobStatus

__all__ = ["Listed", "device_options", "job_line", "jobs_page"]

_CHOICES: Final = {
    "effort": [effort.value for effort in Effort],
    "encoder": [encoder.value for encoder in Encoder],
    "sensitivity": [sensitivity.value for sensitivity in Sensitivity],
    "rotation": [rotation.value for rotation in Rotation],
    "recover": [recover.value for recover in Recover],
    "runtime": [runtime.value for runtime in Runtime],
    "kv_bits": [str(bits) for bits in sorted(KV_BITS, reverse=True)],
}
_DEFAULTS: Final = {
    "effort": Effort.STANDARD.value,
    "sensitivity": Sensitivity.FISHER.value,
    "rotation": Rotation.NONE.value,
    "runtime": Runtime.STOCK.value,
    "kv_bits": "16",
}
_MORE: Final = ("encoder", "sensitivity", "rotation", "recover", "runtime", "formats", "tags")


@dataclass(frozen=True, slots=True)
class Listed:
    """Which jobs are listed: a page of them, in one state, of one model or with one tag."""

    cursor: str | None = None
    state: JobStatus | None = None
    model: str = ""
    tag: str = ""

    @property
    def wanted(self) -> Wanted:
        """Return the same for the service of jobs."""
        return Wanted(self.state, self.model or None, self.tag or None)

    def address(self, cursor: str) -> str:
        """Return the address of the following page."""
        query = {"cursor": cursor, "state": self.state or "", "model": self.model, "tag": self.tag}
        return f"/?{urlencode({name: value for name, value in query.items() if value})}"


def jobs_page(
    page: Page[Job],
    *,
    models: Iterable[str],
    mine: str | None,
    listed: Listed,
    form: Mapping[str, str] | None = None,
    error: str = "",
) -> JsonObject:
    """Return what the list shows; `form` and `error` are those of a submission that failed.

    `mine` is the device that an empty form begins with.
    """
    given = {"device": mine or "", **_DEFAULTS} if form is None else {**_DEFAULTS, **form}
    shown = {name: given.get(name, "") for name in FORM_FIELDS}
    cursor = page.next_cursor
    return {
        "title": "Jobs",
        "section": "Jobs",
        "twin": "/index.json",
        "jobs": [job_line(job) for job in page.items],
        "is_live": any(not job.status.is_final for job in page.items),
        "next": None if cursor is None else listed.address(cursor),
        "states": [state.value for state in JobStatus],
        "state": None if listed.state is None else listed.state.value,
        "model_filter": listed.model,
        "tag_filter": listed.tag,
        "models": sorted(set(models)),
        "choices": _CHOICES,
        "devices": device_options(),
        "form": shown,
        "has_more": any(shown[name] not in ("", _DEFAULTS.get(name)) for name in _MORE),
        "error": error,
        "fit": "",
    }


def device_options() -> list[dict[str, str]]:
    """Return every device by name and title, in the order of their titles and memory."""
    known = sorted(DEVICES.values(), key=lambda d: (d.title.split(",")[0], d.memory_bytes))
    return [{"name": device.name, "title": device.title} for device in known]


def job_line(job: Job) -> JsonObject:
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
        "bits_per_weight": None if answer is None else round(answer.bits_per_weight, 3),
        "predicted": "\N{EN DASH}"
        if answer is None
        else _predicted(answer.predicted_kl_nats_per_token, job.request.sensitivity),
        "tags": [{"name": tag, "link": f"/?{urlencode({'tag': tag})}"} for tag in job.tags],
        "note": job.note,
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
