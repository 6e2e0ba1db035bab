"""What the demo ends with: parts of the budget, formats, proof, comparison, where things are."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bitbudget.app.cli.output import Document
from bitbudget.app.cli.tables import exact, formats_by_layer
from bitbudget.app.contract.reports import Baseline
from bitbudget.app.core.formats import parse_format
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.sizes import format_size
from bitbudget.app.jobs.schemas import Job

__all__ = ["print_report", "report_document"]

_CAPTION: Final = (
    "Measured on text the original writes itself. Predicted for the encoder {encoder}; the uniform "
    "checkpoint is made as mx.quantize does."
)
_DEFAULT_ADDRESS: Final = "http://127.0.0.1:8765"


def report_document(job: Job, data: bytes) -> Document:
    """Return the job's outcome for `--json`, under the names of `run --json`."""
    manifest = Manifest.from_bytes(data)
    result = None if job.result is None else job.result.model_dump(mode="json")
    return {
        "job": job.id,
        **(result or {}),
        "sha256": manifest.sha256,
        "file_bytes": manifest.file_bytes,
        "budget_bytes": manifest.budget_bytes,
        "parts": parts_of(manifest),
        "modules": {path: str(choice.format) for path, choice in manifest.modules.items()},
    }


def parts_of(manifest: Manifest) -> dict[str, int]:
    """Return the bytes of the files by what they hold; what is left is stored unchanged."""
    parts: dict[str, int] = {}
    for path, choice in manifest.modules.items():
        name = _part(path)
        parts[name] = parts.get(name, 0) + choice.bytes
    return {**parts, "norms and headers": manifest.file_bytes - sum(parts.values())}


def _part(path: str) -> str:
    if "embed" in path:
        return "embeddings"
    if "attn" in path:
        return "attention"
    return "feed-forward" if "mlp" in path else "other modules"


def print_report(console: Console, job: Job, data: bytes) -> None:
    """Draw the end of the demo."""
    manifest = Manifest.from_bytes(data)
    console.print(_budget(manifest))
    formats = {path: choice.format for path, choice in manifest.modules.items()}
    console.print(formats_by_layer(None, formats, "\nFormats by layer (bits g group size)"))
    if job.result is not None and job.result.baseline is not None:
        console.print(_comparison(job.result.baseline))
        console.print(_CAPTION.format(encoder=manifest.encoder.value), style="dim", soft_wrap=True)
    console.print(_proof(manifest), soft_wrap=True)
    _print_places(console, job)


def _budget(manifest: Manifest) -> Table:
    table = Table(title="Parts of the budget", title_justify="left", box=None, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right", style="dim")
    for name, nbytes in parts_of(manifest).items():
        table.add_row(name, f"{nbytes:,} B", f"{nbytes / manifest.budget_bytes:.1%}")
    spare = manifest.budget_bytes - manifest.file_bytes
    table.add_row("to spare", f"{spare:,} B", f"{spare / manifest.budget_bytes:.1%}")
    table.add_row("budget", f"{manifest.budget_bytes:,} B", format_size(manifest.budget_bytes))
    return table


def _comparison(baseline: Baseline) -> Table:
    table = Table(title="\nKL to the original, nats per token", title_justify="left", box=None)
    for name in ("", "bytes", "predicted", "measured", "95 % interval", "top-1"):
        table.add_column(name, justify="right" if name else "left")
    uniform = parse_format(baseline.uniform.format)
    sides = {
        "bitbudget": baseline.ours_at_equal_bytes,
        f"uniform {uniform.short_name}": baseline.uniform,
    }
    for name, side in sides.items():
        found = side.evaluation
        low, high = found.kl_interval_95
        table.add_row(
            name,
            f"{side.file_bytes:,}",
            f"{side.predicted_kl_nats_per_token:.5f}",
            f"{found.kl_nats_per_token:.5f}",
            f"{low:.5f}-{high:.5f}",
            f"{found.top1_agreement:.2%}",
        )
    return table


def _proof(manifest: Manifest) -> str:
    proof = manifest.certificate
    return (
        f"\nExact bytes: {exact(manifest.file_bytes)} of {manifest.budget_bytes:,}\n"
        f"Proof: predicted {proof.predicted_kl_nats_per_token:.6f}, lower bound "
        f"{proof.bound:.6f}, gap {proof.gap:.1e} ({proof.status})"
    )


def _print_places(console: Console, job: Job) -> None:
    checkpoint = Path((job.result.checkpoint if job.result is not None else None) or "")
    console.print(f"\nCheckpoint: {checkpoint}", soft_wrap=True)
    console.print(f"Manifest:   {checkpoint / 'manifest.json'}", soft_wrap=True)
    page = f"{_DEFAULT_ADDRESS}/jobs/{job.id}"
    console.print(f"Dashboard:  make serve, then {page}", soft_wrap=True)
    console.print(
        "Try it:     mlx_lm.generate --model", checkpoint, "--prompt 'Once'", soft_wrap=True
    )
