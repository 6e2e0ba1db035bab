"""What a command says: a result on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from bitbudget.app.core.errors import BitbudgetError

__all__ = ["INTERRUPTED", "Document", "finite", "problem_document", "say", "say_problem", "stderr"]

_PIPE_COLUMNS: Final = 400
_OBEYED: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Escapes of terminals, and marks that turn the direction of reading."""

INTERRUPTED: Final = 130
"""What a shell calls a command that was interrupted."""
Document = Mapping[str, Any]
"""What `--json` prints: plain values for the JSON encoder."""


class _Console(Console):
    """Prints what servers, workers and models are called and say, and does nothing else with it."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text without characters that a terminal would obey."""
        return super().render_str(_OBEYED.sub("\N{REPLACEMENT CHARACTER}", text), **options)


def stderr() -> Console:
    """Return the console for progress and notes."""
    return _Console(stderr=True, highlight=False)


def say(
    document: Document, *, as_json: bool, render: Callable[[Console], None] | None = None
) -> None:
    """Print one result: the document as JSON, or what `render` draws of it."""
    if as_json or render is None:
        text = json.dumps(finite(document), indent=None if as_json else 2, allow_nan=False)
        sys.stdout.write(text + "\n")
    else:
        render(_stdout())
    sys.stdout.flush()


def _stdout() -> Console:
    """Return the console for results; lines go on past its edge, and a pipe has none."""
    wide = None if sys.stdout.isatty() else _PIPE_COLUMNS
    return _Console(highlight=False, soft_wrap=True, width=wide)


def finite(value: Any) -> Any:
    """Return `value` with null for every number that JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def problem_document(error: BitbudgetError) -> Document:
    """Return an error as an RFC 9457 problem, with its typed fields and the exit code."""
    return {
        "type": f"urn:bitbudget:problem:{error.slug()}",
        "title": error.title(),
        "status": error.status,
        "detail": str(error),
        "exit_code": error.exit_code,
        **error.fields,
    }


def say_problem(document: Document, *, as_json: bool) -> None:
    """Print one clear message on standard error and, for programs, the problem on stdout."""
    console = stderr()
    console.print(f"{document['title']}: ", style="bold red", end="", markup=False)
    console.print(document["detail"], markup=False, soft_wrap=True)
    if as_json:
        say(document, as_json=True)
