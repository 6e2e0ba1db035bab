"""`bitbudget compare-text`: one prompt, continued by an original and by a checkpoint of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitbudget.app.cli.options import AllowQuantizedSource, Json
from bitbudget.app.cli.output import say

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.contract.texts import TextComparison, WrittenText

__all__ = ["compare_text"]


def compare_text(
    original: Annotated[str, typer.Argument(metavar="ORIGINAL", help="A folder or org/name.")],
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint's folder.")
    ],
    *,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The text to continue.")] = (
        "Once upon a time"
    ),
    tokens: Annotated[int, typer.Option(min=1, max=256, help="Most tokens each writes.")] = 64,
    allow_quantized_source: AllowQuantizedSource = False,
    as_json: Json = False,
) -> None:
    """Show what both make of a prompt, and each one's speed and memory against the prediction."""
    from bitbudget.app.cli.child import home, run_with_progress
    from bitbudget.app.contract.tasks import CompareTextTask
    from bitbudget.app.contract.texts import TextComparison

    task = CompareTextTask.model_validate(
        {
            "home": home(),
            "model": original,
            "checkpoint": str(checkpoint.resolve()),
            "prompt": prompt,
            "tokens": tokens,
            "allow_quantized_source": allow_quantized_source,
        }
    )
    result = run_with_progress(task, TextComparison, "compare-text")
    say(
        result.model_dump(mode="json"),
        as_json=as_json,
        render=lambda console: _print(console, result),
    )


def _print(console: Console, found: TextComparison) -> None:
    from rich.columns import Columns
    from rich.panel import Panel
    from rich.text import Text

    from bitbudget.app.core.decode import speed_basis

    sides = {"original": found.original, "checkpoint": found.result}
    texts = {name: found.left_out if side is None else side.text for name, side in sides.items()}
    width = min(max(console.width // 2 - 1, 38), 72)
    console.print(
        Columns([Panel(Text(text), title=name, width=width) for name, text in texts.items()])
    )
    for name, side in sides.items():
        if side is not None:
            console.print(f"{name + ':':<12} {_figures(side)}")
    if found.original is not None:
        console.print(f"{'the same:':<12} the first {found.same_tokens} tokens")
    basis = speed_basis(
        found.bandwidth_bytes_per_second, on_gpu=found.on_gpu, counts_arithmetic=True
    )
    console.print(basis, soft_wrap=True)


def _figures(side: WrittenText) -> str:
    from bitbudget.app.core.sizes import format_size

    speed = "too short to time"
    if side.tokens_per_second is not None:
        speed = f"{side.tokens_per_second:.1f} tokens/s"
    return (
        f"{side.tokens} tokens, {speed} (predicted {side.predicted_tokens_per_second:.1f}),"
        f" memory {format_size(side.peak_memory_bytes)}"
        f" (predicted {format_size(side.predicted_memory_bytes)})"
    )
