"""The OpenAPI document of the interface."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from bitbudget.app.core.canonical import JsonObject

__all__ = ["install"]


def install(app: FastAPI, *, needs_keys: bool, models: Iterable[type[BaseModel]]) -> None:
    """Let `app.openapi` return the whole OpenAPI document.

    `models` are those that no route declares but that responses refer to.
    """
    app.openapi = _Document(app, needs_keys=needs_keys, models=tuple(models))  # type: ignore[method-assign]


class _Document:
    """The OpenAPI document, made once."""

    def __init__(
        self, app: FastAPI, *, needs_keys: bool, models: tuple[type[BaseModel], ...]
    ) -> None:
        self._app = app
        self._models = models
        self._needs_keys = needs_keys
        self._made: JsonObject | None = None

    def __call__(self) -> JsonObject:
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> JsonObject:
        app = self._app
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
        )
        schemas = document["components"]["schemas"]
        for model in self._models:
            made = model.model_json_schema(
                mode="serialization", ref_template="#/components/schemas/{model}"
            )
            for name, schema in made.pop("$defs", {}).items():
                schemas.setdefault(name, schema)
            schemas.setdefault(model.__name__, made)
        if not self._needs_keys:
            _drop_security(document)
        return document


def _drop_security(document: JsonObject) -> None:
    """On an open server a token may be sent but need not be."""
    for path in document["paths"].values():
        for operation in path.values():
            operation.pop("security", None)
