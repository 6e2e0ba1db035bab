"""The interface's documentation, served without any other site."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel

from bitbudget.app.core.canonical import JsonObject

__all__ = ["install"]

_ASSETS: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
}
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>bitbudget API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><link rel="stylesheet" href="/docs/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script>
</body></html>
"""
_START: Final = (
    'SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, '
    "validatorUrl: null, presets: [SwaggerUIBundle.presets.apis]});\n"
)
_POLICY: Final = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)


def install(app: FastAPI, *, needs_keys: bool, models: Iterable[type[BaseModel]]) -> None:
    """Serve `/docs`, and the OpenAPI document it shows.

    `models` are those that no route declares but that responses refer to.
    """
    router = APIRouter(prefix="/docs", include_in_schema=False)
    router.get("")(_page)
    router.get("/start.js")(_start)
    router.get("/{name}")(_asset)
    app.include_router(router)
    app.openapi = _Document(app, needs_keys=needs_keys, models=tuple(models))  # type: ignore[method-assign]


async def _page() -> Response:
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})


async def _start() -> Response:
    return Response(_START, media_type="text/javascript")


def _asset(name: str) -> Response:
    if name not in _ASSETS:
        return Response(status_code=404)
    data = files("fastapi_swagger").joinpath("resources", name).read_bytes()
    return Response(data, media_type=_ASSETS[name], headers={"Cache-Control": "max-age=86400"})


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
