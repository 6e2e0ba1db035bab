"""What can be asked of stored curves: tensors, the frontier, another budget."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from app.core.formats import ALL_FORMATS, KEEP, Format
from app.core.inventory import Inventory, Module
from app.core.layout import module_bytes, plan_checkpoint
from app.core.measurement import Curve
from app.core.measurement import Measurement as Stored
from app.core.requests import AllocationRequest
from app.database import Database
from app.jobs.schemas import Page
from app.measurements import repository
from app.measurements.library import MeasurementLibrary
from app.measurements.schemas import (
    AllocationAnswer,
    Measurement,
    Order,
    Tensor,
    TensorPoint,
    TensorSort,
)
from app.measurements.solving import solve
from app.models.service import measurement_summary
from app.pages import cut_page, decode_cursor

__all__ = ["MeasurementService", "TensorQuery"]

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
        with self.database.read() as session:
            summary = measurement_summary(repository.get(session, measurement_id))
        stored = self.library.get(measurement_id)
        inventory = stored.inventory
        return Measurement(
            **summary.model_dump(),
            model=stored.model,
            architecture=inventory.architecture,
            modules=len(inventory.modules),
            weights=inventory.weights,
            source_bytes=_bytes(inventory, {}),
            minimum_bytes=_bytes(inventory, {m.path: _smallest(m) for m in inventory.modules}),
        )

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
        items = [_tensor(stored, row.position) for row in kept]
        return Page[Tensor](items=items, next_cursor=following)

    def tensors_csv(self, measurement_id: str) -> Iterator[str]:
        """Give one line per tensor and format, after a line of names."""
        stored = self.library.get(measurement_id)
        return _csv_lines(stored)

    def allocate(self, measurement_id: str, request: AllocationRequest) -> AllocationAnswer:
        """Solve another budget on stored curves; InfeasibleBudgetError names the least size."""
        solved = solve(self.library.get(measurement_id), request)
        return AllocationAnswer(
            manifest=solved.manifest,
            manifest_sha256=solved.answer.manifest_sha256,
            slack_bytes=solved.answer.budget_bytes - solved.answer.file_bytes,
        )


def _smallest(module: Module) -> Format:
    return min(module.legal_formats(ALL_FORMATS), key=lambda format_: module_bytes(module, format_))


def _bytes(inventory: Inventory, formats: dict[str, Format]) -> int:
    chosen = {module.path: formats.get(module.path, KEEP) for module in inventory.modules}
    return plan_checkpoint(inventory).file_bytes(chosen)


def _tensor(stored: Stored, position: int) -> Tensor:
    curve = stored.curves[position]
    module = stored.inventory.module(curve.path)
    return Tensor(
        position=position,
        path=curve.path,
        role=module.role,
        layer=module.layer,
        kind=module.kind,
        shape=module.shape,
        dtype=module.dtype,
        weights=module.weights,
        decision_group=module.decision_group,
        alpha_nats=curve.alpha_nats,
        digest=curve.digest,
        features=dict(curve.features),
        points=_points(curve, module),
    )


def _points(curve: Curve, module: Module) -> list[TensorPoint]:
    return [
        TensorPoint(
            format=point.format,
            bytes=module_bytes(module, point.format),
            bits_per_weight=point.format.bits_per_weight(module.dtype),
            t2=point.t2,
            sqnr_db=point.sqnr_db if point.t2 > 0 else None,
            kl_nats=point.kl_nats,
        )
        for point in curve.points
    ]


_COLUMNS = ("path", "layer", "role", "weights", "alpha_nats", "format", "bytes")
_POINT_COLUMNS = ("bits_per_weight", "t2", "sqnr_db", "kl_nats")


def _csv_lines(stored: Stored) -> Iterator[str]:
    yield _csv_line((*_COLUMNS, *_POINT_COLUMNS))
    for position in range(len(stored.curves)):
        tensor = _tensor(stored, position)
        for point in tensor.points:
            values = [getattr(tensor, name) for name in _COLUMNS[:5]]
            values += [point.format, point.bytes]
            values += [getattr(point, name) for name in _POINT_COLUMNS]
            yield _csv_line(values)


def _csv_line(values: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
