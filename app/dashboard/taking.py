"""How a reader takes an answer along: the command, lines for stock mlx-lm, how to try it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from bitbudget.app.core.effort import Effort
from bitbudget.app.core.errors import ConflictError
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.recipe import stock_recipe
from bitbudget.app.core.requests import JobRequest
from bitbudget.app.core.sensitivity import Sensitivity
from bitbudget.app.core.sqnr import DEFAULT_SQNR_FLOOR_DB

__all__ = ["Taking", "taking"]

_FOLDER = "OUT"


@dataclass(frozen=True, slots=True)
class Taking:
    """Texts to copy: `recipe` is "" for rotated weights, which stock mlx-lm does not read."""

    command: str
    recipe: str
    generate: str


def taking(manifest: Manifest, request: JobRequest, checkpoint: str | None = None) -> Taking:
    """Return the texts for one answer; `request` is the job that would make it."""
    try:
        recipe = stock_recipe(manifest, "manifest.json", request.model, _FOLDER)
    except ConflictError:
        recipe = ""
    folder = shlex.quote(checkpoint or _FOLDER)
    return Taking(
        command=_command(request),
        recipe=recipe,
        generate=f"mlx_lm.generate --model {folder} --prompt 'Once upon a time'",
    )


def _command(request: JobRequest) -> str:
    usual = JobRequest(
        model=request.model, budget=1, effort=request.effort, sensitivity=request.sensitivity
    )
    words = ["bitbudget", "run", request.model, *_budget(request)]
    if request.effort is not Effort.STANDARD:
        words += ["--effort", request.effort.value]
    if request.sensitivity is not Sensitivity.FISHER:
        words += ["--sensitivity", request.sensitivity.value]
    for option in ("encoder", "rotation", "recover", "kv_bits", "runtime"):
        value = getattr(request, option)
        if value != getattr(usual, option):
            words += [f"--{option.replace('_', '-')}", str(value)]
    return shlex.join([*words, *_limits(request), "-o", _FOLDER])


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
