"""`bitbudget allocate` and `bitbudget frontier`: the choice of formats, and all choices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitbudget.app.cli.grouped import grouped
from bitbudget.app.cli.options import (
    AllocationOptions,
    GivenMeasurement,
    Json,
    MeasureOptions,
    Model,
    Preview,
)
from bitbudget.app.cli.output import say
from bitbudget.app.core.canonical import JsonObject

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.core.manifest import Manifest

__all__ = ["allocate", "write_manifest"]


@grouped
def allocate(
    model: Model,
    *,
    budget: AllocationOptions,
    measuring: MeasureOptions,
    measurement: GivenMeasurement = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the manifest here.")
    ] = None,
    preview: Preview = None,
    as_json: Json = False,
) -> None:
    """Choose the format of every module for a budget, and prove how good the choice is.

    MODEL may also be a measurement that `bitbudget measure -o` wrote.
    """
    from bitbudget.app.cli.measure import load_measurements
    from bitbudget.app.core.solving import best_manifest

    request = budget.request()
    asked = request.model_dump(mode="json", exclude_none=True)
    found = load_measurements(model, measuring, given=measurement, budget=asked, preview=preview)
    manifest = best_manifest(found, request)
    if output is not None:
        write_manifest(output, manifest)
    document = {
        "manifest": None if output is None else str(output),
        "sha256": manifest.sha256,
        **manifest_document(manifest),
        "modules": {path: str(choice.format) for path, choice in manifest.modules.items()},
        "kv_cache": kv_document(manifest),
        "notes": list(manifest.notes),
    }

    def render(console: Console) -> None:
        print_manifest(console, manifest)
        if output is not None:
            console.print(f"\nmanifest: {output}")

    say(document, as_json=as_json, render=render)


def write_manifest(file: Path, manifest: Manifest) -> None:
    """Write the canonical bytes under a temporary name, then rename."""
    temporary = file.with_name(f".{file.name}.part")
    temporary.write_bytes(manifest.to_bytes())
    temporary.replace(file)


def manifest_document(manifest: Manifest) -> JsonObject:
    """Return the numbers of a manifest under the names that every `--json` uses."""
    return {
        "file_bytes": manifest.file_bytes,
        "budget_bytes": manifest.budget_bytes,
        "bits_per_weight": manifest.bits_per_weight,
        **manifest.certificate.model_dump(),
    }


def kv_document(manifest: Manifest) -> JsonObject | None:
    """Return the cache of every layer by side, None where it was not chosen."""
    if manifest.kv_cache is None:
        return None
    return {
        str(layer): {side.value: choice.model_dump() for side, choice in sides.items()}
        for layer, sides in manifest.kv_cache.items()
    }


def print_manifest(console: Console, manifest: Manifest) -> None:
    """Draw the certificate and the formats by layer."""
    from bitbudget.app.cli.tables import formats_by_layer, manifest_facts

    console.print(manifest_facts(manifest))
    console.print()
    console.print(formats_by_layer(None, manifest.formats))
    for note in manifest.notes:
        console.print(f"[yellow]note:[/] {note}", soft_wrap=True)
