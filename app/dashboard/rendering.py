"""Templates, assets and the two forms of every page: HTML, and the same data as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from fastapi import Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel

from bitbudget.app.core.canonical import sha256_of
from bitbudget.app.core.sizes import format_size
from bitbudget.app.dashboard import formatting as words
from bitbudget.app.dashboard.figures.figure import Figure

__all__ = [
    "CONTENT_SECURITY_POLICY",
    "IS_SIGNED_IN",
    "asset_file",
    "asset_names",
    "check_installation",
    "html",
    "twin",
]

IS_SIGNED_IN: Final[ContextVar[bool]] = ContextVar("is_signed_in", default=False)
"""Whether the browser that is answered sent a key: only then can it sign out."""

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""Styles may be inline because plotly sets them; scripts may not."""

_HERE: Final = Path(__file__).parent
_OURS: Final = {
    "app.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_PLOTLY: Final = "plotly.min.js"


@dataclass(frozen=True, slots=True)
class Asset:
    """A static file, its media type and the digest that its address carries."""

    path: Path
    media_type: str
    version: str


def asset_names() -> tuple[str, ...]:
    """Return every static file that pages may ask for."""
    return (*_OURS, _PLOTLY)


@cache
def asset_file(name: str) -> Asset:
    """Return a static file; KeyError for any other name."""
    if name == _PLOTLY:
        path, media_type = _plotly_folder() / "package_data" / _PLOTLY, _OURS["app.js"]
    else:
        path, media_type = _HERE / "static" / name, _OURS[name]
    return Asset(path, media_type, sha256_of(path.read_bytes())[:12])


def _plotly_folder() -> Path:
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("plotly")
    return Path(spec.origin).parent


def _asset_address(name: str) -> str:
    return f"/static/{name}?v={asset_file(name).version}"


def _script_json(value: object) -> Markup:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(plain(value), ensure_ascii=True, allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - every character that HTML reads is escaped above


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = _asset_address
    environment.filters.update(
        json=_script_json,
        size=format_size,
        cell=words.cell,
        short=words.short,
        module_words=words.module_words,
    )
    return environment


def check_installation() -> None:
    """Raise what a page would when a template or a static file is not installed.

    Renders the sign-in page, which needs no data, and reads what every page may ask for.
    """
    html(
        "signin.html",
        {"title": "", "twin": "", "section": "", "error": "", "to": "/", "needs_keys": True},
    )
    for name in asset_names():
        asset_file(name)


def html(template: str, page: Mapping[str, Any], status: int = 200) -> Response:
    """Render a page; its scripts come from this server only."""
    shown = {"is_signed_in": IS_SIGNED_IN.get(), **page}
    text = _environment().get_template(template).render(shown)
    headers = {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
    return HTMLResponse(text, status, headers)


def twin(page: Mapping[str, Any]) -> Response:
    """Return a page's data as JSON."""
    shown = {name: value for name, value in page.items() if not callable(value)}
    text = json.dumps(plain(shown), allow_nan=False)
    return Response(text, media_type="application/json", headers={"Cache-Control": "no-store"})


def plain(value: Any) -> Any:
    """Return `value` as JSON can hold it; figures become their documents."""
    if isinstance(value, Figure):
        return plain(value.document())
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return str(value)
