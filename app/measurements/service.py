"""What can be asked of stored curves: tensors, the frontier, another budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from bitbudget.app.core.allocate import smallest_bytes
from bitbudget.app.core.candidates import Rules
from bitbudget.app.core.errors import NotFoundError
from bitbudget.app.core.guide import GuideRow, guide
from bitbudget.app.core.least import kept_bytes
from bitbudget.app.core.measurement import Measurement as Measured
from bitbudget.app.core.measurement_file import file_bytes
from bitbudget.app.core.requests import AllocationRequest
from bitbudget.app.core.runtime import Runtime
from bitbudget.app.http.pages import Page, cut_page, decode_cursor
from bitbudget.app.measurements import repository
from bitbudget.app.measurements.cache import MeasurementLibrary
from bitbudget.app.measurements.schemas import (
    AllocationAnswer,
    Frontier,
    FrontierPoint,
    Guide,
    MarkedPoint,
    Measurement,
    MeasurementSummary,
    Order,
    Tensor,
    TensorSort,
)
from bitbudget.app.measurements.solving import over_after, searched, solve
from bitbudget.app.measurements.tensors import tensor_csv, tensor_view
from bitbudget.app.measurements.views import measurement_summary
from bitbudget.app.storage.database import Database

__all__ = ["MeasurementService", "TensorQuery"]

_GUIDE_SECONDS: Final = 5.0
"""Of solving for all devices together; what is left then is feasible, not proven optimal."""

_KEY_TYPES = {
    TensorSort.POSITION: int,
    TensorSort.PATH: str,
    TensorSort.WEIGHTS: int,
    TensorSort.ALPHA_NATS: float,
}


@dataclass(frozen=True, slots=True)
class TensorQuery:
    """Which tensors, in which order."""

    sort: TensorSort
    order: Order
    layer: int | None
    role: str | None


@dataclass(frozen=True, slots=True)
class MeasurementService:
    """Measurements, as users see them."""

    database: Database
    library: MeasurementLibrary

    def get(self, measurement_id: str) -> Measurement:
        """Return the head of a measurement."""
        summary = self._summary(measurement_id)
        stored = self.library.get(measurement_id)
        inventory = stored.inventory
        return Measurement(
            **summary.model_dump(),
            model=stored.model,
            architecture=inventory.architecture,
            modules=len(inventory.modules),
            weights=inventory.weights,
            source_bytes=kept_bytes(inventory),
            minimum_bytes=smallest_bytes(stored, Rules()),
        )

    def export(self, measurement_id: str) -> bytes:
        """Return the file to pass on: canonical bytes without where this copy came from."""
        return file_bytes(self.library.get(measurement_id))

    def source(self, measurement_id: str) -> str:
        """Return where a measurement came from if no worker of this server made it."""
        summary = self._summary(measurement_id)
        if summary.imported and summary.origin:
            return f"an imported file, which its importer says is from {summary.origin}"
        return summary.origin or ("an imported file" if summary.imported else "")

    def is_imported(self, measurement_id: str) -> bool:
        """Whether a measurement was imported: no worker of this server made it."""
        return self._summary(measurement_id).imported

    def _summary(self, measurement_id: str) -> MeasurementSummary:
        with self.database.read() as session:
            found = measurement_summary(repository.get(session, measurement_id))
        if found is None:
            raise NotFoundError(what="readable measurement", name=measurement_id)
        return found

    def tensors(
        self, measurement_id: str, query: TensorQuery, cursor: str | None, limit: int
    ) -> Page[Tensor]:
        """Return a page of tensors."""
        after = decode_cursor(cursor, (_KEY_TYPES[query.sort], int))
        stored = self.library.get(measurement_id)
        with self.database.read() as session:
            rows = repository.tensor_page(
                session,
                measurement_id,
                sort=query.sort,
                order=query.order,
                after=after,
                limit=limit,
                layer=query.layer,
                role=query.role,
            )
        kept, following = cut_page(
            rows, limit, lambda row: [getattr(row, query.sort.value), row.position]
        )
        items = [tensor_view(stored, row.position) for row in kept]
        return Page[Tensor](items=items, next_cursor=following)

    def tensors_csv(self, measurement_id: str) -> Iterator[str]:
        """Give one line per tensor and format, after a line of names."""
        stored = self.library.get(measurement_id)
        return tensor_csv(stored)

    def frontier(self, measurement_id: str, sqnr_floor_db: float, points: int) -> Frontier:
        """Return the whole trade of bytes against KL, thinned to this many points."""
        found = self.library.frontier(measurement_id, sqnr_floor_db, points)
        return Frontier(
            measurement_id=measurement_id,
            smallest_bytes=found.smallest_bytes,
            breakpoints=[FrontierPoint(**point._asdict()) for point in found.breakpoints],
            uniform=[MarkedPoint(**point._asdict()) for point in found.uniform],
            recipes=[MarkedPoint(**point._asdict()) for point in found.recipes],
        )

    def guide(
        self, measurement_id: str, context: int, *, joint_kv: bool, runtime: Runtime
    ) -> Guide:
        """Return a row for each device of the table; InvalidRequestError for a context too long."""
        measurement = self.library.get(measurement_id)
        work = partial(_guide_rows, context=context, joint_kv=joint_kv, runtime=runtime)
        rows = searched(work, measurement)
        return Guide(measurement_id=measurement_id, context=context, rows=rows)

    def allocate(self, measurement_id: str, request: AllocationRequest) -> AllocationAnswer:
        """Solve another budget on stored curves; InfeasibleBudgetError names the least size."""
        solved = solve(self.library.get(measurement_id), request)
        return AllocationAnswer(
            manifest=solved.manifest,
            manifest_sha256=solved.answer.manifest_sha256,
            slack_bytes=solved.answer.budget_bytes - solved.answer.file_bytes,
        )


def _guide_rows(
    measurement: Measured, *, context: int, joint_kv: bool, runtime: Runtime
) -> list[GuideRow]:
    is_over = over_after(_GUIDE_SECONDS)
    return list(guide(measurement, context, joint_kv=joint_kv, runtime=runtime, is_over=is_over))
