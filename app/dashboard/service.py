"""Gathers what each page shows from the services behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from bitbudget.app.auth.principal import HOME_USER, Principal
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.devices import device
from bitbudget.app.core.errors import (
    BitbudgetError,
    ConflictError,
    InfeasibleBudgetError,
    InvalidRequestError,
    NotFoundError,
)
from bitbudget.app.core.kv import plan_with_caches
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.measurement import Measurement
from bitbudget.app.core.memory import plan_memory
from bitbudget.app.core.requests import AllocationRequest, Deliver, JobRequest, Rotation
from bitbudget.app.core.runtime import Runtime
from bitbudget.app.core.sizes import parse_size
from bitbudget.app.core.sqnr import DEFAULT_SQNR_FLOOR_DB
from bitbudget.app.dashboard.figures.figure import Figure
from bitbudget.app.dashboard.figures.parts import Bar, memory_parts
from bitbudget.app.dashboard.forms import form_of
from bitbudget.app.dashboard.frontier_view import trade_of
from bitbudget.app.dashboard.pages.answer import Solved, Trade
from bitbudget.app.dashboard.pages.compare import Compared, compare_page
from bitbudget.app.dashboard.pages.guide import guide_page
from bitbudget.app.dashboard.pages.held import Held
from bitbudget.app.dashboard.pages.job import job_page
from bitbudget.app.dashboard.pages.jobs import Listed, jobs_page
from bitbudget.app.dashboard.pages.mac import OWN_TYPE, Caches, MacCard, mac_cards
from bitbudget.app.dashboard.pages.machines import benchmarks_page, machines_page
from bitbudget.app.dashboard.pages.models import WhatIf, model_page, models_page
from bitbudget.app.dashboard.sources import Sources
from bitbudget.app.dashboard.taking import taking
from bitbudget.app.http.errors import ForbiddenError
from bitbudget.app.jobs.repository import Wanted
from bitbudget.app.jobs.schemas import CheckpointFile, Job, JobReport
from bitbudget.app.jobs.status import JobStatus

__all__ = ["CompareQuery", "Dashboard", "GuideQuery", "WhatIfQuery", "figure_named"]

_LISTED = 50
_MODELS = 200
_FRONTIER_POINTS = 4000
_DEFAULT_CONTEXT = 8192
Page = JsonObject


@dataclass(frozen=True, slots=True)
class WhatIfQuery:
    """What a model's page is asked to show; empty fields are chosen for the reader."""

    measurement: str
    budget: str
    module: str
    device: str | None = None
    context: int | None = None
    caches: Caches = OWN_TYPE


@dataclass(frozen=True, slots=True)
class GuideQuery:
    """At what context, and for which runtime, a model is shown on every device."""

    measurement: str
    context: int | None
    runtime: Runtime


@dataclass(frozen=True, slots=True)
class CompareQuery:
    """Which answers stand side by side: jobs, and budgets on measurements (`<id>@<size>`)."""

    jobs: tuple[str, ...]
    allocations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """The pages of one server."""

    sources: Sources
    mine: str | None = None
    """The device that pages answer for where none is chosen."""
    reader: Principal = HOME_USER
    address: str = ""
    """Where the reader's browser found this server."""

    def jobs(self, listed: Listed, form: Mapping[str, str] | None = None, error: str = "") -> Page:
        """Return the list of jobs with the form."""
        models = self.sources.models.page(None, _MODELS).items
        jobs = self.sources.jobs.page(listed.cursor, _LISTED, listed.wanted)
        return jobs_page(
            jobs,
            models=(name for model in models for name in model.names),
            mine=self.mine,
            listed=listed,
            form=form,
            error=error,
        )

    def form_like(self, job_id: str) -> Mapping[str, str]:
        """Return the form that a job would be sent with again."""
        job = self.sources.jobs.get(job_id)
        return form_of(job.request, job.tags)

    def job(self, job_id: str) -> Page:
        """Return one job; NotFoundError when there is none.

        Without what its measurement would add, where that is stored but cannot be read.
        """
        report = self.sources.jobs.report(job_id)
        solved = self._solved(report.job)
        memory = None if solved is None else _memory(solved)
        notes, held = self.sources.jobs.notes(job_id), self._held(report.job)
        measured = report.job.measurement_id
        try:
            source = "" if measured is None else self.sources.measurements.source(measured)
        except NotFoundError:
            source = ""
        page = job_page(report, solved, memory, notes, held, source=source)
        if solved is None and report.job.answer is not None and measured is not None:
            page["unreadable"].append("measurement")
        return page

    def _held(self, job: Job) -> Held | None:
        """Return what can be done with a checkpoint that a worker holds, and was."""
        if job.result is None or job.result.checkpoint is None:
            return None
        followups = self.sources.followups
        return Held(
            followups.of_job(job.id),
            followups.publishes_to(job.id),
            self._checkpoint_files(job.id),
            self.address,
        )

    def _checkpoint_files(self, job_id: str) -> Sequence[CheckpointFile] | str:
        """Return the files that this reader may download here, or why there are none."""
        try:
            return self.sources.checkpoints.files(job_id, self.reader).files
        except (ConflictError, ForbiddenError) as error:
            return str(error)

    def _solved(self, job: Job) -> Solved | None:
        if job.answer is None or job.measurement_id is None:
            return None
        manifest = self._manifest(job)
        try:
            measurement = self.sources.measurements.library.get(manifest.measurement)
        except NotFoundError:
            return None
        return Solved(measurement, self._trade(measurement), manifest)

    def _manifest(self, job: Job) -> Manifest:
        return Manifest.from_bytes(self.sources.jobs.manifest(job.id))

    def _trade(self, measurement: Measurement) -> Trade:
        found = self.sources.measurements.library.frontier(
            measurement.key, DEFAULT_SQNR_FLOOR_DB, _FRONTIER_POINTS
        )
        return trade_of(found)

    def models(self, cursor: str | None = None) -> Page:
        """Return the measured models."""
        return models_page(self.sources.models.page(cursor, _MODELS))

    def model(self, digest: str, asked: WhatIfQuery) -> Page:
        """Return a model at one budget, the middle of its range when none is stated."""
        chosen = asked.measurement or self._measurement_of(digest)
        measurement = self.sources.measurements.library.get(chosen)
        trade = self._trade(measurement)
        wrong = ""
        try:
            budget = parse_size(asked.budget) if asked.budget else _default(trade)
        except InvalidRequestError as error:
            budget, wrong = _default(trade), str(error)
        on = asked.device if asked.device is not None else self.mine or ""
        at = WhatIf(digest, chosen, budget, asked.module, on, asked.context, asked.caches)
        source = self.sources.measurements.source(chosen)
        if wrong:
            return model_page(measurement, trade.line, at, None, error=wrong, source=source)
        try:
            request = AllocationRequest(budget=at.budget)
            answer = self.sources.measurements.allocate(chosen, request)
            solved = Solved(measurement, trade, answer.manifest)
            memory = _memory_on(solved, on, asked.context, asked.caches)
        except (InfeasibleBudgetError, InvalidRequestError) as error:
            return model_page(measurement, trade.line, at, None, error=str(error), source=source)
        request = self.job_for(digest, chosen, budget)
        text = taking(answer.manifest, request)
        return model_page(
            measurement,
            trade.line,
            at,
            solved,
            memory,
            text=text,
            cards=self._cards(solved, at),
            mine=self.mine,
            source=source,
        )

    def guide(self, digest: str, asked: GuideQuery) -> Page:
        """Return the best checkpoint of a model for every device."""
        measurement = self.sources.measurements.library.get(
            asked.measurement or self._measurement_of(digest)
        )
        context = asked.context or _context(measurement)
        found = self.sources.measurements.guide(
            measurement.key, context, joint_kv=False, runtime=asked.runtime
        )
        return guide_page(measurement, found.rows, context, asked.runtime, mine=self.mine)

    def manifest_at(self, digest: str, asked: WhatIfQuery) -> bytes:
        """Return the manifest of a budget on stored curves."""
        measurement = asked.measurement or self._measurement_of(digest)
        request = AllocationRequest(budget=parse_size(asked.budget))
        return self.sources.measurements.allocate(measurement, request).manifest.to_bytes()

    def job_for(self, digest: str, measurement: str, budget: int) -> JobRequest:
        """Return the request whose job makes the checkpoint of a budget on stored curves."""
        found = self.sources.measurements.library.get(measurement)
        model = self.sources.models.find(digest)
        names = [] if model is None else model.names
        return JobRequest(
            model=names[0] if names else found.model.name,
            budget=budget,
            effort=found.effort,
            encoder=found.encoder,
            sensitivity=found.sensitivity,
            rotation=Rotation(found.rotation),
            deliver=Deliver.CHECKPOINT,
            measurement=measurement if self.sources.measurements.is_imported(measurement) else None,
        )

    def _cards(self, solved: Solved, at: WhatIf) -> list[MacCard]:
        """Return the best answer of the chosen device at a few contexts."""
        if not at.device:
            return []
        return mac_cards(solved.measurement, solved.trade.line, device(at.device), at.caches)

    def _measurement_of(self, digest: str) -> str:
        model = self.sources.models.find(digest)
        if model is None or not model.measurements:
            raise NotFoundError(what="measured model", name=digest)
        return model.measurements[0].id

    def compare(self, query: CompareQuery) -> Page:
        """Return the chosen answers side by side."""
        choices = [job for job in self._finished() if job.answer is not None]
        models = self.sources.models.page(None, _MODELS).items
        try:
            compared = [self._compared_job(job_id) for job_id in query.jobs]
            compared += [self._compared_budget(text) for text in query.allocations]
        except BitbudgetError as error:
            return compare_page(choices, models, [], str(error))
        return compare_page(choices, models, compared)

    def _compared_job(self, job_id: str) -> Compared:
        report = self.sources.jobs.report(job_id)
        manifest = self._manifest(report.job)
        return Compared("jobs", job_id, manifest, report.evaluation, report.benchmark)

    def _compared_budget(self, text: str) -> Compared:
        """Solve `<measurement>@<size>`."""
        measurement, _, size = text.partition("@")
        request = AllocationRequest(budget=parse_size(size, "budget"))
        answer = self.sources.measurements.allocate(measurement, request)
        key = f"{measurement}@{answer.manifest.budget_bytes}"
        return Compared("allocations", key, answer.manifest)

    def benchmarks(self) -> Page:
        """Return the benchmarks of the latest finished jobs."""
        return benchmarks_page(list(self._reports()))

    def _reports(self) -> Iterator[JobReport]:
        for job in self._finished():
            with suppress(BitbudgetError):  # one whose files are gone takes no page down
                yield self.sources.jobs.report(job.id)

    def _finished(self) -> list[Job]:
        return self.sources.jobs.page(None, _LISTED, Wanted(JobStatus.SUCCEEDED)).items

    def machines(self) -> Page:
        """Return the registered workers."""
        return machines_page(self.sources.workers.page(None, _MODELS).items)


def _memory(solved: Solved) -> Bar | None:
    request = solved.manifest.request
    if request.device is None or request.context is None:
        return None
    caches = Caches(request.kv_bits, request.runtime)
    return _memory_on(solved, request.device, request.context, caches)


def _memory_on(
    solved: Solved,
    name: str,
    context: int | None,
    caches: Caches,
) -> Bar | None:
    if not name:
        return None
    inventory, target = solved.measurement.inventory, device(name)
    tokens = context or _context(solved.measurement)
    plan = plan_memory(inventory, target, tokens, caches.kv_bits, caches.runtime)
    if solved.manifest.kv_cache is not None:
        formats = solved.manifest.kv_formats
        plan = plan_with_caches(inventory, target, tokens, formats, caches.runtime)
    return memory_parts(plan, solved.manifest.file_bytes, target.title)


def _context(measurement: Measurement) -> int:
    """Return the context that is shown where none is asked for."""
    most = measurement.inventory.architecture.max_context
    return min(_DEFAULT_CONTEXT, most or _DEFAULT_CONTEXT)


def _default(trade: Trade) -> int:
    return trade.line[len(trade.line) // 2].file_bytes


def figure_named(page: Page, name: str) -> Figure:
    """Return a page's figure; NotFoundError when it has none of that name."""
    for value in page.values():
        for item in value if isinstance(value, list) else (value,):
            figure = item if isinstance(item, Figure) else getattr(item, "figure", None)
            if isinstance(figure, Figure) and figure.name == name:
                return figure
    raise NotFoundError(what="figure", name=name)
