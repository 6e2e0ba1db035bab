"""Commands that do on one machine what a request asks for."""

from __future__ import annotations

import shlex

from bitbudget.app.core.effort import Effort
from bitbudget.app.core.requests import JobRequest
from bitbudget.app.core.sensitivity import Sensitivity
from bitbudget.app.core.sqnr import DEFAULT_SQNR_FLOOR_DB

__all__ = ["other_budget_command", "run_command"]

_MEASURED = ("encoder", "rotation", "runtime")
_AFTERWARDS = ("recover", "kv_bits")


def run_command(request: JobRequest, output: str) -> str:
    """Return the `bitbudget run` that makes the checkpoint of a request."""
    words = ["bitbudget", "run", request.model, *_budget(request)]
    words += _stated(request, (*_MEASURED, *_AFTERWARDS))
    return shlex.join([*words, *_limits(request), "-o", output])


def other_budget_command(request: JobRequest) -> str:
    """Return the `bitbudget allocate` that answers another budget from the same measurement."""
    words = ["bitbudget", "allocate", request.model, *_stated(request, _MEASURED)]
    return f"{shlex.join(words)} --budget ..."


def _stated(request: JobRequest, options: tuple[str, ...]) -> list[str]:
    """Return the options that differ from what the effort does by itself."""
    usual = JobRequest(
        model=request.model, budget=1, effort=request.effort, sensitivity=request.sensitivity
    )
    words = [] if request.effort is Effort.STANDARD else ["--effort", request.effort.value]
    if request.sensitivity is not Sensitivity.FISHER:
        words += ["--sensitivity", request.sensitivity.value]
    for option in options:
        value = getattr(request, option)
        if value != getattr(usual, option):
            words += [f"--{option.replace('_', '-')}", str(value)]
    return words


def _budget(request: JobRequest) -> list[str]:
    words = [] if request.budget is None else ["--budget", str(request.budget)]
    if request.device is not None:
        words += ["--device", request.device]
    if request.context is not None:
        words += ["--context", str(request.context)]
    words += ["--joint-kv"] if request.joint_kv else []
    return words + (["--min-safe"] if request.min_safe else [])


def _limits(request: JobRequest) -> list[str]:
    words = ["--formats", ",".join(map(str, request.formats))] if request.formats else []
    for glob, format_ in request.pins.items():
        words += ["--pin", f"{glob}={format_}"]
    for glob, bits in request.floors.items():
        words += ["--floor", f"{glob}={bits}"]
    if request.sqnr_floor_db != DEFAULT_SQNR_FLOOR_DB:
        words += ["--sqnr-floor", f"{request.sqnr_floor_db:g}"]
    return words
