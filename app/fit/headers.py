"""Inventories of models that were never here, read from headers alone by a child process.

The inventory comes from mlx-lm's class, which the server never imports, or from the names in the
headers where mlx-lm is not installed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from http import HTTPStatus
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Final

from bitbudget.app.child.process import ChildProcess
from bitbudget.app.contract.problems import Problem
from bitbudget.app.contract.reports import FitResult
from bitbudget.app.contract.tasks import FitTask
from bitbudget.app.core.errors import BitbudgetError, ModelClassNeededError
from bitbudget.app.http.errors import (
    UnavailableError,
    UnknownModelError,
    UnreadableModelError,
    UntoldModelError,
)
from bitbudget.app.models.allowed_paths import ModelGate

__all__ = ["HeaderReader"]

_KEPT: Final = 64
_FRESH_SECONDS: Final = 300.0
_WAIT_SECONDS: Final = 10.0
_CHILD_SECONDS: Final = 30.0
_PASSING: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)

_Asked = tuple[str, bool]
"""A model, and whether it may be one that was quantized before."""


class HeaderReader:
    """Starts at most `children` processes at once; what they found is kept for minutes."""

    def __init__(self, home: Path, gate: ModelGate, children: int) -> None:
        self._home = home
        self._gate = gate
        self._free = BoundedSemaphore(children) if children else None
        self._lock = Lock()
        self._kept: OrderedDict[_Asked, tuple[float, FitResult]] = OrderedDict()

    @property
    def home(self) -> Path:
        """The folder for state: BITBUDGET_HOME."""
        return self._home

    @property
    def can_read(self) -> bool:
        """Whether this server reads models at all."""
        return self._free is not None

    def read(self, model: str, *, allow_quantized_source: bool = False) -> FitResult:
        """Return what a folder in an allowed root, or a model on the Hub, is made of.

        Raises InvalidRequestError for a folder elsewhere, UnknownModelError where nothing can be
        read, UntoldModelError for what only a worker can read, UnreadableModelError for what is
        not a model, UnavailableError when all are busy.
        """
        self._gate.check(model)
        if self._free is None:
            raise UnknownModelError(model=model)
        asked = (model, allow_quantized_source)
        found = self._remembered(asked)
        if found is not None:
            return found
        if not self._free.acquire(timeout=_WAIT_SECONDS):
            raise UnavailableError(what="reader of headers, which is busy,")
        try:
            return self._remember(asked, self._read(*asked))
        finally:
            self._free.release()

    def _read(self, model: str, allow_quantized_source: bool) -> FitResult:  # noqa: FBT001
        with ChildProcess(most_seconds=_CHILD_SECONDS) as child:
            child.give(
                FitTask(
                    home=str(self._home),
                    model=model,
                    allow_quantized_source=allow_quantized_source,
                    names_are_ids=True,
                )
            )
            for event in child.events():
                if event.kind == "failed":
                    raise _error(model, event.problem)
                if event.kind == "finished" and isinstance(event.result, FitResult):
                    return event.result
        raise UnreadableModelError(model=model, reason="its reader answered another question")

    def _remembered(self, asked: _Asked) -> FitResult | None:
        with self._lock:
            until, found = self._kept.get(asked, (0.0, None))
        return found if time.monotonic() < until else None

    def _remember(self, asked: _Asked, found: FitResult) -> FitResult:
        with self._lock:
            self._kept[asked] = (time.monotonic() + _FRESH_SECONDS, found)
            self._kept.move_to_end(asked)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found


def _error(model: str, problem: Problem) -> BitbudgetError:
    if problem.status in _PASSING:
        return UnavailableError(what=f"headers of '{model}' ({problem.detail.rstrip('.')})")
    reason = problem.detail.rstrip(".")
    if problem.type.endswith(ModelClassNeededError.slug()):
        return UntoldModelError(model=model, reason=reason)
    return UnreadableModelError(model=model, reason=reason)
