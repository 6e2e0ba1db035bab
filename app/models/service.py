"""The models this server knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from bitbudget.app.core.errors import NotFoundError
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.http.pages import Key, Page, cut_page, decode_cursor
from bitbudget.app.measurements import repository as measurements
from bitbudget.app.measurements.tables import MeasurementRow
from bitbudget.app.measurements.views import measurement_summary
from bitbudget.app.models import repository
from bitbudget.app.models.schemas import Model
from bitbudget.app.models.tables import ModelRow
from bitbudget.app.storage.database import Database

__all__ = ["ModelService"]


@dataclass(frozen=True, slots=True)
class ModelService:
    """Models, as users see them."""

    database: Database

    def page(self, cursor: str | None, limit: int) -> Page[Model]:
        """Return a page of models, newest first."""
        after = _position(decode_cursor(cursor, (str, str)))
        with self.database.read() as session:
            rows = repository.page(session, after, limit)
            kept, following = cut_page(
                rows, limit, lambda row: [row.created_at.isoformat(), row.digest]
            )
            return Page[Model](items=_views(session, kept), next_cursor=following)

    def find(self, name: str) -> Model | None:
        """Return a model by a name that resolved to it, or by its id; None when there is none."""
        with self.database.read() as session:
            row = repository.by_name(session, name)
            return None if row is None else _views(session, [row])[0]

    def inventory(self, name: str) -> Inventory | None:
        """Return the inventory of a model by a name that resolved to it, or by its id."""
        with self.database.read() as session:
            return repository.inventory_by_name(session, name)


def _views(session: Session, rows: Sequence[ModelRow]) -> list[Model]:
    digests = [row.digest for row in rows]
    names = repository.names_of(session, digests)
    measured = measurements.of_models(session, digests)
    return [_view(row, names.get(row.digest, []), measured.get(row.digest, [])) for row in rows]


def _position(key: Key | None) -> tuple[datetime, str] | None:
    if key is None:
        return None
    try:
        moment = datetime.fromisoformat(str(key[0]))
        return moment.astimezone(UTC), str(key[1])
    except (ValueError, OverflowError) as error:
        raise NotFoundError(what="page of this list at", name=str(key[0])[:40]) from error


def _view(row: ModelRow, names: list[str], measured: list[MeasurementRow]) -> Model:
    summaries = {each.id: measurement_summary(each) for each in measured}
    return Model(
        id=row.digest,
        name=row.name,
        revision=row.revision,
        model_type=row.model_type,
        weights=row.weights,
        names=names,
        measurements=[summary for summary in summaries.values() if summary is not None],
        unreadable=[name for name, summary in summaries.items() if summary is None],
        created_at=row.created_at,
    )
