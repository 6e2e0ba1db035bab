"""Inventories of models that were never here, read from headers alone by a child process.

The inventory comes from the model's class, which is MLX's, and the server never imports that.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Final

from bitbudget.app.child.process import ChildProcess
from bitbudget.app.contract.problems import Problem
from bitbudget.app.contract.reports import FitResult
from bitbudget.app.contract.tasks import FitTask
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.http.errors import UnavailableError, UnknownModelError, UnreadableModelError
from bitbudget.app.models.allowed_paths import ModelGate

__all__ = ["HeaderReader"]

_KEPT: Final = 64
_FRESH_SECONDS: Final = 300.0
_WAIT_SECONDS: Final = 10.0
_CHILD_SECONDS: Final = 30.0
_NEEDED: Final = ("mlx", "mlx_lm", "huggingface_hub")
_PASSING: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)

_Asked = tuple[str, bool]
"""A model, and whether it may be one that was quantized before."""


class HeaderReader:
    """Starts at most `children` processes at once; what they found is kept for minutes."""

    def __init__(self, home: Path, gate: ModelGate, children: int) -> None:
        self._home = home
        self._gate = gate
        self._free = BoundedSemaphore(children) if children and _can_read() else None
        self._lock = Lock()
        self._kept: OrderedDict[_Asked, tuple[float, Inventory]] = OrderedDict()

    @property
    def home(self) -> Path:
        """The folder for state: BITBUDGET_HOME."""
        return self._home

    @property
    def can_read(self) -> bool:
        """Whether this installation can read models at all."""
        return self._free is not None

    def inventory(self, model: str, *, allow_quantized_source: bool = False) -> Inventory:
        """Return the inventory of a folder in an allowed root, or of a model on the Hub.

        Raises InvalidRequestError for a folder elsewhere, UnknownModelError where nothing can be
        read, UnreadableModelError for what is not a model, UnavailableError when all are busy.
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

    def _read(self, model: str, allow_quantized_source: bool) -> Inventory:  # noqa: FBT001
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
                    return event.result.inventory
        raise UnreadableModelError(model=model, reason="its reader answered another question")

    def _remembered(self, asked: _Asked) -> Inventory | None:
        with self._lock:
            until, inventory = self._kept.get(asked, (0.0, None))
        return inventory if time.monotonic() < until else None

    def _remember(self, asked: _Asked, inventory: Inventory) -> Inventory:
        with self._lock:
            self._kept[asked] = (time.monotonic() + _FRESH_SECONDS, inventory)
            self._kept.move_to_end(asked)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return inventory


def _can_read() -> bool:
    return all(find_spec(name) is not None for name in _NEEDED)


def _error(model: str, problem: Problem) -> UnreadableModelError | UnavailableError:
    if problem.status in _PASSING:
        return UnavailableError(what=f"headers of '{model}' ({problem.detail.rstrip('.')})")
    return UnreadableModelError(model=model, reason=problem.detail.rstrip("."))
