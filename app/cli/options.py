"""The options that commands share. Values are checked where they are used, by the core."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitbudget.app.cli.completion import choices, device_names
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.runtime import Runtime
from bitbudget.app.core.sqnr import DEFAULT_SQNR_FLOOR_DB

if TYPE_CHECKING:
    from bitbudget.app.core.requests import AllocationRequest, JobRequest

__all__ = [
    "OUTPUT_NAMES",
    "AllocationOptions",
    "AllowQuantizedSource",
    "DiskLimit",
    "GivenMeasurement",
    "Json",
    "MeasureOptions",
    "Model",
    "Overwrite",
    "Recover",
    "RecoverSeconds",
    "Relinearize",
    "RuntimeName",
    "Server",
    "Token",
    "disk_limit_bytes",
]

OUTPUT_NAMES = ("-o", "--output", "--mlx-path")
"""mlx-lm calls the folder that it writes `--mlx-path`."""

Model = Annotated[str, typer.Argument(metavar="MODEL", help=r"A folder or org/name\[@revision].")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")]
Server = Annotated[
    str, typer.Option("--server", envvar="BITBUDGET_SERVER", help="Address of the server.")
]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="BITBUDGET_TOKEN", help="Bearer token of the server."),
]

GivenMeasurement = Annotated[
    str | None,
    typer.Option(
        "--measurement",
        metavar="FILE|[datasets/]ORG/NAME",
        help="Use this measurement of the model instead of making one.",
    ),
]
Recover = Annotated[
    str | None,
    typer.Option(
        help="Training after it: none or scales; run and submit go by the effort.",
        autocompletion=choices("none", "scales"),
    ),
]
RecoverSeconds = Annotated[float, typer.Option(help="The most that training may take.")]
Relinearize = Annotated[
    bool | None,
    typer.Option(
        "--relinearize/--no-relinearize",
        help="Measure errors together and solve again (default: below 3.5 bits per weight).",
    ),
]
Preview = Annotated[
    bool | None,
    typer.Option(
        "--preview/--no-preview",
        help="A first answer at quick effort (default: where the wanted one takes over a minute).",
    ),
]
RuntimeName = Annotated[
    Runtime,
    typer.Option(help="What runs the result: mlx-lm as it is, with bitbudget.load, or uzu."),
]
DiskLimit = Annotated[
    str | None,
    typer.Option(
        "--disk-limit",
        envvar="BITBUDGET_DISK_LIMIT",
        help="Most bytes of weights downloaded from the Hub to keep at once: 20GiB.",
    ),
]

AllowQuantizedSource = Annotated[
    bool,
    typer.Option(
        "--allow-quantized-source",
        help="Take weights that were quantized before: what they lost is not seen.",
    ),
]

_BUDGET = "Budget"
_LIMITS = "Limits of the choice"
_MEASURE = "Measurement"


def disk_limit_bytes(limit: str | None) -> int | None:
    """Return whole bytes; InvalidRequestError for what is no size."""
    from bitbudget.app.core.sizes import parse_size

    return None if limit is None else parse_size(limit, where="--disk-limit")


def _place(model: str) -> str:
    """Return the absolute path of a folder that exists here, a Hub id as it is."""
    folder = Path(model).expanduser()
    return str(folder.absolute()) if folder.is_dir() else model


def _pairs(values: list[str] | None, option: str) -> dict[str, str]:
    pairs = {}
    for value in values or []:
        glob, separator, setting = value.rpartition("=")
        if not separator or not glob:
            raise InvalidRequestError(
                where=option,
                found=repr(value),
                expected="GLOB=VALUE",
                remedy=f"write for example {option} '*.embed_tokens=...'",
            )
        pairs[glob] = setting
    return pairs


def _bits(text: str) -> int:
    if text.isdecimal():
        return int(text)
    raise InvalidRequestError(
        where="--floor",
        found=repr(text),
        expected="a number of bits",
        remedy="write for example --floor '*.v_proj=6'",
    )


@dataclass(frozen=True)
class AllocationOptions:
    """What `allocate`, `run` and `submit` have in common: a budget and its side conditions."""

    budget: Annotated[
        str | None,
        typer.Option(help="Bytes of the finished files: 5.5GiB.", rich_help_panel=_BUDGET),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            help="Fit this device, such as m4-pro-24gb: see bitbudget devices.",
            rich_help_panel=_BUDGET,
            autocompletion=device_names,
        ),
    ] = None
    context: Annotated[
        int | None,
        typer.Option(help="Tokens of context to keep room for.", rich_help_panel=_BUDGET),
    ] = None
    kv_bits: Annotated[
        int,
        typer.Option(
            help="Bits of the KV cache: 16, 8 or 4.",
            rich_help_panel=_BUDGET,
            autocompletion=choices("16", "8", "4"),
        ),
    ] = 16
    joint_kv: Annotated[
        bool,
        typer.Option("--joint-kv", help="Choose every KV cache, too.", rich_help_panel=_BUDGET),
    ] = False
    runtime: RuntimeName = Runtime.STOCK
    min_safe: Annotated[
        bool,
        typer.Option("--min-safe", help="The smallest safe size.", rich_help_panel=_BUDGET),
    ] = False
    min_tokens_per_second: Annotated[
        float | None,
        typer.Option(help="Least decoding speed on the device.", rich_help_panel=_LIMITS),
    ] = None
    formats: Annotated[
        str | None,
        typer.Option(help="Candidates, with commas: affine4g64,mxfp4.", rich_help_panel=_LIMITS),
    ] = None
    sqnr_floor: Annotated[
        float,
        typer.Option(help="Least SQNR of a format, in dB.", rich_help_panel=_LIMITS),
    ] = DEFAULT_SQNR_FLOOR_DB
    pin: Annotated[
        list[str] | None,
        typer.Option(help="GLOB=FORMAT, repeatable.", rich_help_panel=_LIMITS),
    ] = None
    floor: Annotated[
        list[str] | None,
        typer.Option(help="GLOB=BITS, repeatable.", rich_help_panel=_LIMITS),
    ] = None
    max_low_bit_per_block: Annotated[
        int | None,
        typer.Option(help="Most modules under 4 bits in a block.", rich_help_panel=_LIMITS),
    ] = None
    time_limit: Annotated[
        float, typer.Option(help="Seconds for the solver.", rich_help_panel=_LIMITS)
    ] = 10.0

    def fields(self) -> dict[str, Any]:
        """Return the fields of an AllocationRequest; InvalidRequestError for a malformed pair."""
        names = None if self.formats is None else [n.strip() for n in self.formats.split(",")]
        return {
            "budget": self.budget,
            "device": self.device,
            "context": self.context,
            "kv_bits": self.kv_bits,
            "joint_kv": self.joint_kv,
            "runtime": self.runtime,
            "min_safe": self.min_safe,
            "min_tokens_per_second": self.min_tokens_per_second,
            "formats": names,
            "sqnr_floor_db": self.sqnr_floor,
            "pins": _pairs(self.pin, "--pin"),
            "floors": {glob: _bits(bits) for glob, bits in _pairs(self.floor, "--floor").items()},
            "max_low_bit_per_block": self.max_low_bit_per_block,
            "time_limit_seconds": self.time_limit,
        }

    def request(self) -> AllocationRequest:
        """Return the request; InvalidRequestError when no budget is stated or a value is wrong."""
        from bitbudget.app.core.requests import AllocationRequest

        return AllocationRequest.model_validate(self.fields())


@dataclass(frozen=True)
class MeasureOptions:
    """How a model is measured."""

    effort: Annotated[
        str | None,
        typer.Option(
            help="quick, standard or thorough (default: standard, or what --max-minutes allows).",
            rich_help_panel=_MEASURE,
            autocompletion=choices("quick", "standard", "thorough"),
        ),
    ] = None
    max_minutes: Annotated[
        float | None,
        typer.Option(
            help="Choose the best effort that takes no longer here.", rich_help_panel=_MEASURE
        ),
    ] = None
    encoder: Annotated[
        str | None,
        typer.Option(
            help="minmax, careful, gptq or yaqa (default: the effort's).",
            rich_help_panel=_MEASURE,
            autocompletion=choices("minmax", "careful", "gptq", "yaqa"),
        ),
    ] = None
    sensitivity: Annotated[
        str,
        typer.Option(
            help="fisher, probe or weights.",
            rich_help_panel=_MEASURE,
            autocompletion=choices("fisher", "probe", "weights"),
        ),
    ] = "fisher"
    rotation: Annotated[
        str,
        typer.Option(
            help="none, folded, fused or auto.",
            rich_help_panel=_MEASURE,
            autocompletion=choices("none", "folded", "fused", "auto"),
        ),
    ] = "none"
    text: Annotated[
        Path | None,
        typer.Option(
            help="Text for sensitivity (default: sampled from the model).",
            rich_help_panel=_MEASURE,
        ),
    ] = None
    seed: Annotated[
        int, typer.Option(help="Seed of everything random.", rich_help_panel=_MEASURE)
    ] = 0
    disk_limit: DiskLimit = None
    name: Annotated[
        str | None,
        typer.Option(help="What manifest and card call the model.", rich_help_panel=_MEASURE),
    ] = None
    allow_quantized_source: AllowQuantizedSource = False

    def fields(self) -> dict[str, Any]:
        """Return the stated fields that tasks and job requests share; they know the defaults."""
        stated = {
            "effort": self.effort,
            "max_minutes": self.max_minutes,
            "encoder": self.encoder,
            "sensitivity": self.sensitivity,
            "rotation": self.rotation,
            "text": None if self.text is None else str(self.text.resolve()),
            "seed": self.seed,
            "name": self.name,
            "allow_quantized_source": self.allow_quantized_source or None,
        }
        return {name: value for name, value in stated.items() if value is not None}

    def job(self, model: str, budget: AllocationOptions, **more: Any) -> JobRequest:
        """Return a whole job; InvalidRequestError when a value is wrong."""
        from bitbudget.app.core.requests import JobRequest

        stated = {name: value for name, value in more.items() if value is not None}
        values = {"model": _place(model), **self.fields(), **budget.fields(), **stated}
        return JobRequest.model_validate(values)
