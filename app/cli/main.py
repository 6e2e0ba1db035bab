"""The entry point `bitbudget`: registers the commands and turns errors into exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from bitbudget.app.cli import (
    allocate,
    api,
    checkpoint,
    compare_text,
    demo,
    devices,
    doctor,
    fit,
    frontier,
    guide,
    jobs,
    keys,
    manifest,
    measure,
    measurement,
    run,
    serve,
    solve,
    submit,
    upload,
)
from bitbudget.app.cli.failures import problem_of
from bitbudget.app.cli.output import Document, say_problem
from bitbudget.distribution import installed_version

__all__ = ["build_app", "main"]

_HERE = "Here, without a server"
_SERVER = "With a server"
_WRONG_USAGE = 2


def build_app() -> typer.Typer:
    """Return the application with every command."""
    app = typer.Typer(
        name="bitbudget",
        help="The best mixed-precision quantization of a language model for a memory budget.",
        no_args_is_help=True,
        invoke_without_command=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    local = (
        fit.fit,
        devices.devices,
        measure.measure,
        allocate.allocate,
        checkpoint.quantize,
        checkpoint.evaluate,
        checkpoint.benchmark,
        compare_text.compare_text,
        run.run,
        api.api,
        upload.upload,
        solve.solve,
        frontier.frontier,
        guide.guide,
    )
    for command in local:
        app.command(rich_help_panel=_HERE)(command)
    app.add_typer(manifest.app, name="manifest", rich_help_panel=_HERE)
    app.add_typer(measurement.app, name="measurement", rich_help_panel=_HERE)
    remote = (
        serve.serve,
        serve.worker,
        submit.submit,
        submit.watch,
        jobs.jobs,
        jobs.label,
        jobs.cancel,
        doctor.doctor,
        serve.gc,
        demo.demo,
    )
    for command in remote:
        app.command(rich_help_panel=_SERVER)(command)
    app.add_typer(keys.app, name="key", rich_help_panel=_SERVER)
    return app


def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Find the best mixed-precision quantization of a language model for a memory budget."""
    if version:
        typer.echo(f"bitbudget {installed_version()}")
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its code: 0 done, 1 failed, 2 wrong usage, 3 infeasible."""
    words = sys.argv[1:] if arguments is None else arguments
    sys.exit(_run(words, as_json="--json" in words))


def _run(words: list[str], *, as_json: bool) -> int:
    try:
        ended = build_app()(args=words, prog_name="bitbudget", standalone_mode=not as_json)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else _WRONG_USAGE
    except TyperException as error:
        return _fail(_usage(error), as_json=as_json)
    except Exception as error:
        problem = problem_of(error)
        if problem is None:
            raise
        return _fail(problem, as_json=as_json)
    return ended if isinstance(ended, int) else 0


def _fail(problem: Document, *, as_json: bool) -> int:
    say_problem(problem, as_json=as_json)
    return int(problem["exit_code"])


def _usage(error: TyperException) -> Document:
    return {
        "type": "urn:bitbudget:problem:wrong-usage",
        "title": "Wrong usage",
        "status": 422,
        "detail": error.format_message(),
        "exit_code": _WRONG_USAGE,
    }
