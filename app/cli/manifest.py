"""`bitbudget manifest`: show, verify, compare, apply and export the record of an allocation."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitbudget.app.cli.options import OUTPUT_NAMES, AllowQuantizedSource, Json
from bitbudget.app.cli.output import say
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import BitbudgetError, InvalidRequestError
from bitbudget.app.core.export_target import Target

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.cli.verify import Check
    from bitbudget.app.core.exports import Recipe
    from bitbudget.app.core.manifest import Manifest
    from bitbudget.app.core.sensitivity import Objective

__all__ = ["app", "load_manifest"]

app = typer.Typer(no_args_is_help=True, help="Show, verify, compare, apply and export manifests.")

File = Annotated[Path, typer.Argument(metavar="MANIFEST", help="A manifest.json.")]


class ManifestMismatchError(BitbudgetError):
    """A manifest does not agree with what it is checked against."""

    template = "{file} does not hold: {failed}."

    def __init__(self, *, file: str, failed: str, checks: list[JsonObject]) -> None:
        super().__init__(file=file, failed=failed, checks=checks)


def load_manifest(file: Path) -> Manifest:
    """Read a manifest; InvalidRequestError names what is wrong with it."""
    from bitbudget.app.core.manifest import Manifest

    return Manifest.from_bytes(file.read_bytes(), where=str(file))


@app.command()
def show(file: File, *, as_json: Json = False) -> None:
    """Show the budget, the certificate and the format of every module."""
    from bitbudget.app.cli.tables import formats_by_layer, manifest_facts

    manifest = load_manifest(file)

    def render(console: Console) -> None:
        console.print(manifest_facts(manifest))
        console.print()
        console.print(formats_by_layer(None, manifest.formats))

    document = {"sha256": manifest.sha256, **manifest.model_dump(mode="json")}
    say(document, as_json=as_json, render=render)


@app.command()
def verify(
    file: File,
    *,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Also check the files of this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a manifest's schema, canonical bytes and budget, and the files made from it."""
    from bitbudget.app.cli.verify import check_checkpoint, check_manifest

    manifest = load_manifest(file)
    checks = list(check_manifest(file.read_bytes(), manifest))
    if checkpoint is not None:
        checks += check_checkpoint(manifest, checkpoint)
    failed = [check for check in checks if not check.holds]
    if failed:
        raise ManifestMismatchError(
            file=str(file),
            failed="; ".join(f"{check.name} ({check.detail})" for check in failed),
            checks=[check.document() for check in checks],
        )
    document = {
        "manifest": str(file),
        "sha256": manifest.sha256,
        "ok": True,
        "checks": [check.document() for check in checks],
    }
    say(document, as_json=as_json, render=lambda console: _print_checks(console, checks))


def _print_checks(console: Console, checks: list[Check]) -> None:
    for check in checks:
        console.print(f"[green]ok[/] {check.name}: {check.detail}", soft_wrap=True)


@app.command()
def diff(first: File, second: File, *, as_json: Json = False) -> None:
    """Compare two manifests: bytes, what was minimised and each module whose format differs."""
    from rich.table import Table

    before, after = load_manifest(first), load_manifest(second)
    goal = _common_objective(before, after)
    cost_key = "kl_nats" if goal.is_kl else goal.key
    changes = _changes(before, after, cost_key)
    document = {
        "same": before.to_bytes() == after.to_bytes(),
        "file_bytes": [before.file_bytes, after.file_bytes],
        f"predicted_{goal.key}": [
            before.certificate.predicted_kl_nats_per_token,
            after.certificate.predicted_kl_nats_per_token,
        ],
        "modules": changes,
    }

    def render(console: Console) -> None:
        table = Table(box=None, header_style="dim", pad_edge=False)
        for name in ("module", "first", "second", "bytes", goal.label):
            table.add_column(name, justify="left" if name == "module" else "right")
        for path, change in changes.items():
            old, new = (m.modules.get(path) for m in (before, after))
            table.add_row(
                path,
                "-" if old is None else old.format.short_name,
                "-" if new is None else new.format.short_name,
                f"{change['bytes']:+,}",
                f"{change[cost_key]:+.2e}",
            )
        console.print(f"{len(changes)} of {len(before.modules)} modules differ")
        console.print(f"bytes {before.file_bytes:,} -> {after.file_bytes:,}")
        if changes:
            console.print(table)

    say(document, as_json=as_json, render=render)


def _common_objective(before: Manifest, after: Manifest) -> Objective:
    if before.objective != after.objective:
        raise InvalidRequestError(
            where="manifest diff",
            found=f"{before.objective.axis} and {after.objective.axis}",
            expected="two manifests that minimise the same",
            remedy="allocate both with the same --sensitivity",
        )
    return before.objective


def _changes(before: Manifest, after: Manifest, cost_key: str) -> dict[str, JsonObject]:
    changes = {}
    for path in dict.fromkeys((*before.modules, *after.modules)):
        old, new = before.modules.get(path), after.modules.get(path)
        if old is None or new is None or old.format != new.format:
            changes[path] = {
                "formats": [None if c is None else str(c.format) for c in (old, new)],
                "bytes": (new.bytes if new else 0) - (old.bytes if old else 0),
                cost_key: (new.kl_nats if new else 0.0) - (old.kl_nats if old else 0.0),
            }
    return changes


@app.command()
def apply(
    file: File,
    *,
    model: Annotated[str | None, typer.Option(help="The model to convert.")] = None,
    output: Annotated[str, typer.Option(*OUTPUT_NAMES, help="Folder to write.")] = "mlx_model",
    as_json: Json = False,
) -> None:
    """Print the lines of Python that apply a manifest with stock mlx_lm.convert."""
    from bitbudget.app.core.recipe import stock_recipe

    manifest = load_manifest(file)
    script = stock_recipe(manifest, str(file), model or manifest.model.name, output)
    say(
        {"python": script},
        as_json=as_json,
        render=lambda c: c.print(script, soft_wrap=True, markup=False, end=""),
    )


@app.command()
def export(
    file: File,
    *,
    target: Annotated[Target, typer.Option("--for", help="What is to quantize by it.")],
    model: Annotated[
        str | None,
        typer.Option(help="The model, or a measurement's .json, for widths (default: by name)."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(*OUTPUT_NAMES, help="File to write (default: print it).")
    ] = None,
    allow_quantized_source: AllowQuantizedSource = False,
    as_json: Json = False,
) -> None:
    """Write the formats as a recipe for llama.cpp, mlx-lm or AutoRound.

    A format that the target lacks becomes the nearest that it has: each kind is told, with bytes.
    """
    manifest = load_manifest(file)
    recipe = _recipe(
        manifest,
        target,
        model or manifest.model.name,
        allow_quantized_source=allow_quantized_source,
    )
    notes = list(recipe.notes(manifest))
    if output is not None:
        output.write_text(recipe.text, encoding="utf-8")
    document = {
        "for": target.value,
        "recipe": recipe.text,
        "usage": recipe.usage,
        "bytes": recipe.bytes_there,
        "changes": [asdict(change) for change in recipe.changes],
        "notes": notes,
    }

    def render(console: Console) -> None:
        for note in notes:
            typer.echo(f"note: {note}", err=True)
        typer.echo(f"use: {recipe.usage}", err=True)
        if output is None:
            console.print(recipe.text, soft_wrap=True, markup=False, end="")

    say(document, as_json=as_json, render=render)


def _recipe(
    manifest: Manifest, target: Target, model: str, *, allow_quantized_source: bool
) -> Recipe:
    from bitbudget.app.cli.fit import inventory_of
    from bitbudget.app.cli.gguf_names import gguf_names
    from bitbudget.app.core import exports

    if target is Target.MLX_LM:
        return exports.mlx_lm_recipe(manifest)
    inventory = inventory_of(model, allow_quantized_source=allow_quantized_source)
    unknown = manifest.modules.keys() - {module.path for module in inventory.modules}
    if unknown:
        raise InvalidRequestError(
            where="--model",
            found=f"{model} without {min(unknown)}",
            expected=f"the model of the manifest, {manifest.model.name}",
            remedy="give the folder, Hub id or measurement that the manifest was made for",
        )
    if target is Target.AUTO_ROUND:
        return exports.auto_round_recipe(manifest, inventory)
    return exports.llama_cpp_recipe(manifest, inventory, gguf_names(inventory.architecture))
