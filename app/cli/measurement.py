"""`bitbudget measurement`: pass measurements on, and take those that others made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitbudget.app.cli.grouped import grouped
from bitbudget.app.cli.options import Json, MeasureOptions, Model
from bitbudget.app.cli.output import say
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import InvalidRequestError

if TYPE_CHECKING:
    from rich.console import Console

    from bitbudget.app.client.client import Client
    from bitbudget.app.contract.reports import ImportedMeasurement
    from bitbudget.app.core.measurement import Measurement

__all__ = ["app", "given_to_server", "import_measurement", "measured_so"]

app = typer.Typer(
    no_args_is_help=True, help="Pass measurements on, and take those that others made."
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="An exported measurement.")]
Of = Annotated[str | None, typer.Option("--model", help="Also check that it is of these weights.")]


@app.command()
@grouped
def export(
    model: Model,
    *,
    measuring: MeasureOptions,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    as_json: Json = False,
) -> None:
    """Write the measurement of MODEL, made now unless it is known, as a file to pass on."""
    from bitbudget.app.cli.measure import load_measurement
    from bitbudget.app.core.measurement_file import file_bytes

    measurement = load_measurement(model, measuring)
    temporary = output.with_name(f".{output.name}.part")
    temporary.write_bytes(file_bytes(measurement))
    temporary.replace(output)
    _say(measurement, {"measurement": str(output)}, as_json=as_json)


@app.command("import")
@grouped
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|[datasets/]ORG/NAME", help=r"A file, or a repository\[@revision]."
        ),
    ],
    *,
    measuring: MeasureOptions,
    model: Of = None,
    as_json: Json = False,
) -> None:
    """Check a measurement that somebody else made, and use it from now on for these weights."""
    taken = import_measurement(source, model, measuring)

    def render(console: Console) -> None:
        from bitbudget.app.cli.tables import facts

        rows = {
            "model": f"{taken.model.name}, {taken.modules} modules",
            "weights": taken.model.digest,
            "made": f"{taken.effort} effort, {taken.encoder}, {taken.sensitivity}",
            "from": taken.origin or source,
            "SHA-256": taken.sha256,
            "kept in": taken.measurement,
        }
        console.print(facts(rows))

    say(taken.model_dump(mode="json"), as_json=as_json, render=render)


@app.command()
def show(file: File, *, as_json: Json = False) -> None:
    """Show what an exported measurement is of and how it was made."""
    _say(_read(file), {}, as_json=as_json)


@app.command()
def verify(
    file: File,
    *,
    model: Of = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="The digest that it must have.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check schema, canonical bytes and bounds of a measurement, its digest and its weights."""
    from bitbudget.app.core.measurement_file import file_digest

    measurement = _read(file)
    digest = file_digest(measurement)
    if sha256 is not None and sha256.lower() != digest:
        raise InvalidRequestError(
            where=str(file),
            found=f"SHA-256 {digest}",
            expected=sha256,
            remedy="get the file again: this is another one",
        )
    if model is not None:
        import_measurement(str(file), model, MeasureOptions(), keep=False)
    _say(measurement, {"ok": True, "verified_for": model}, as_json=as_json)


def _read(file: Path) -> Measurement:
    from bitbudget.app.core.measurement_file import MAX_MEASUREMENT_BYTES, read_file

    with file.open("rb") as stream:
        return read_file(stream.read(MAX_MEASUREMENT_BYTES + 1), str(file))


def import_measurement(
    source: str, model: str | None, options: MeasureOptions, *, keep: bool = True
) -> ImportedMeasurement:
    """Take a measurement from a file or the Hub in a child, checked and kept in the home.

    InvalidRequestError for one of other weights than `model`'s, or made otherwise than stated.
    """
    from bitbudget.app.cli.child import home, run_with_progress
    from bitbudget.app.contract.reports import ImportedMeasurement
    from bitbudget.app.contract.tasks import ImportTask

    task = ImportTask.model_validate(
        {
            "home": home(),
            "source": source,
            "model": model,
            "keep": keep,
            "allow_quantized_source": options.allow_quantized_source,
            "name": options.name,
            **_stated(options),
        }
    )
    return run_with_progress(task, ImportedMeasurement, "measurement import")


def given_to_server(
    client: Client, source: str, model: str, options: MeasureOptions
) -> tuple[MeasureOptions, str]:
    """Import a measurement from a file or the Hub on a server.

    Returns options that ask for one made so, and the id that a job names it by. The server's
    workers compare it with the model: its weights need not be here.
    """
    from bitbudget.app.core.hub_id import HubId
    from bitbudget.app.core.measurement_file import file_bytes
    from bitbudget.app.core.measurement_way import check_stated

    if Path(source).is_file():
        found = _read(Path(source))
        check_stated(source, found, _stated(options))
    else:
        from bitbudget.app.cli.measure import read_measurement

        of = model if HubId.matches(model) else None
        found = read_measurement(Path(import_measurement(source, of, options).measurement))
    so = measured_so(options, found)
    return so, client.import_measurement(file_bytes(found), found.origin).id


def _stated(options: MeasureOptions) -> dict[str, str | None]:
    return {
        "effort": options.effort,
        "encoder": options.encoder,
        "sensitivity": _unless(options.sensitivity, MeasureOptions.sensitivity),
        "rotation": _unless(options.rotation, MeasureOptions.rotation),
    }


def _unless(stated: str, default: str) -> str | None:
    return None if stated == default else stated


def measured_so(
    options: MeasureOptions, taken: ImportedMeasurement | Measurement
) -> MeasureOptions:
    """Return options that ask for a measurement made as this one was."""
    from bitbudget.app.core.calibration_text import NO_TEXT, OwnText

    if taken.text not in {*OwnText, NO_TEXT} and options.text is None:
        raise InvalidRequestError(
            where="--measurement",
            found=f"sensitivities on a text of SHA-256 {taken.text}",
            expected="--text with that text: the checkpoint is coded with statistics of it",
            remedy="add --text FILE, or use the measurement with bitbudget allocate",
        )
    return replace(
        options,
        effort=taken.effort,
        max_minutes=None,
        encoder=taken.encoder,
        sensitivity=taken.sensitivity,
        rotation=taken.rotation,
    )


def _say(measurement: Measurement, more: JsonObject, *, as_json: bool) -> None:
    from bitbudget.app.core.measurement_file import file_bytes, file_digest

    nbytes, digest = len(file_bytes(measurement)), file_digest(measurement)
    model, inventory = measurement.model, measurement.inventory
    document = {
        **more,
        "sha256": digest,
        "bytes": nbytes,
        "key": measurement.key,
        "model": {"name": model.name, "revision": model.revision, "digest": model.digest},
        "effort": measurement.effort.value,
        "encoder": measurement.encoder.value,
        "sensitivity": measurement.sensitivity.value,
        "rotation": measurement.rotation,
        "text": measurement.text,
        "tokens": measurement.tokens,
        "modules": len(measurement.curves),
        "weights": inventory.weights,
    }

    def render(console: Console) -> None:
        from bitbudget.app.cli.tables import exact, facts

        rows = {
            "model": f"{model.name} ({inventory.architecture.model_type})",
            "revision": model.revision,
            "weights": f"{inventory.weights:,} in {len(measurement.curves)} modules",
            "SHA-256 of them": model.digest,
            "made": f"{measurement.effort} effort, encoder {measurement.encoder},"
            f" sensitivity {measurement.sensitivity}, rotation {measurement.rotation}",
            "text": measurement.text,
            "file": f"{exact(nbytes)}, SHA-256 {digest}",
        }
        console.print(facts(rows | {name: str(v) for name, v in more.items() if v is not None}))

    say(document, as_json=as_json, render=render)
