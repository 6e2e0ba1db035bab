"""How a reader takes an answer along: the command, lines for stock mlx-lm, how to try it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from bitbudget.app.core.commands import run_command
from bitbudget.app.core.errors import ConflictError
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.recipe import stock_recipe
from bitbudget.app.core.requests import JobRequest

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
        command=run_command(request, _FOLDER),
        recipe=recipe,
        generate=f"mlx_lm.generate --model {folder} --prompt 'Once upon a time'",
    )
