"""The OpenAPI document of the interface."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from bitbudget.app.core.canonical import JsonObject

__all__ = ["install"]


def install(app: FastAPI, *, models: Iterable[type[BaseModel]]) -> None:
    """Let `app.openapi` return the whole OpenAPI document.

    `models` are those that no route declares but that responses refer to.
    """
    app.openapi = _Document(app, models=tuple(models))  # type: ignore[method-assign]


class _Document:
    """The OpenAPI document, made once."""

    def __init__(self, app: FastAPI, *, models: tuple[type[BaseModel], ...]) -> None:
        self._app = app
        self._models = models
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
        return document
