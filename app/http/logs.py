"""Structured logs: every line carries the request, and the job once it is known."""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, Literal

from bitbudget.app.contract.messages import storable_text

__all__ = ["configure_logging", "log_fields"]

log_fields: ContextVar[dict[str, Any]] = ContextVar("log_fields", default={})  # noqa: B039 - never changed in place
"""What the current request is about: request_id, job_id, ..."""

_EXTRA: Final = "fields"
_LONGEST: Final = 16_384


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return one JSON object."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **log_fields.get(),
            **getattr(record, _EXTRA, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return one line for people."""
        fields = {**log_fields.get(), **getattr(record, _EXTRA, {})}
        shown = " ".join(f"{name}={value}" for name, value in fields.items())
        return storable_text(f"{super().format(record)} {shown}".rstrip(), _LONGEST)


def configure_logging(level: str, form: Literal["json", "text"]) -> None:
    """Send the log to standard error in this form, uvicorn's included."""
    handler = logging.StreamHandler()
    text = _TextFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(_JsonFormatter() if form == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"
