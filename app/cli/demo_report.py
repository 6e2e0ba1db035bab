"""What the demo ends with: parts of the budget, formats, proof, comparison, where things are."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.table import Table

from bitbudget.app.cli.ending import print_comparison, print_next
from bitbudget.app.cli.output import Document
from bitbudget.app.cli.tables import exact, formats_by_layer
from bitbudget.app.contract.home_token import HomeToken
from bitbudget.app.core.manifest import Manifest
from bitbudget.app.core.sizes import format_size
from bitbudget.app.jobs.schemas import Job

__all__ = ["print_report", "report_document"]

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
        "bits_per_weight": manifest.bits_per_weight,
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


def print_report(console: Console, job: Job, data: bytes, token: HomeToken) -> None:
    """Draw the end of the demo."""
    manifest = Manifest.from_bytes(data)
    console.print(_budget(manifest))
    title = "\nFormats by layer (bits g group size)"
    console.print(formats_by_layer(None, manifest.formats, title))
    if job.result is not None and job.result.baseline is not None:
        print_comparison(console, job.result.baseline, manifest.encoder.value)
    console.print(_proof(manifest), soft_wrap=True)
    checkpoint = "" if job.result is None else job.result.checkpoint or ""
    page = token.link(f"{_DEFAULT_ADDRESS}/jobs/{job.id}")
    print_next(console, checkpoint, job.request, page=page)


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


def _proof(manifest: Manifest) -> str:
    proof = manifest.certificate
    return (
        f"\nExact bytes: {exact(manifest.file_bytes)} of {manifest.budget_bytes:,},"
        f" {manifest.bits_per_weight:.2f} bits per weight\n"
        f"Proof: predicted {proof.predicted_kl_nats_per_token:.6f}, lower bound "
        f"{proof.bound:.6f}, gap {proof.gap:.1e} ({proof.status})"
    )
