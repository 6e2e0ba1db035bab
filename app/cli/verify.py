"""Checks of a manifest against itself and against the files of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.formats import KEEP
from bitbudget.app.core.manifest import Manifest

__all__ = ["Check", "check_checkpoint", "check_manifest"]

_MAX_HEADER_BYTES = 100 * 2**20
_RELATIVE = 1e-9


@dataclass(frozen=True, slots=True)
class Check:
    """One statement about a manifest and whether it holds."""

    name: str
    holds: bool
    detail: str

    def document(self) -> dict[str, Any]:
        """Return the check for JSON."""
        return asdict(self)


def check_manifest(data: bytes, manifest: Manifest) -> Iterator[Check]:
    """Check what can be checked without the model."""
    canonical = data.rstrip(b"\n") == manifest.to_bytes()
    yield Check("canonical bytes", canonical, f"sha256 {manifest.sha256}")
    spare = manifest.budget_bytes - manifest.file_bytes
    yield Check("within the budget", spare >= 0, f"{spare:,} bytes to spare")
    modules = sum(choice.bytes for choice in manifest.modules.values())
    yield Check(
        "bytes of the modules",
        modules <= manifest.file_bytes,
        f"{modules:,} of {manifest.file_bytes:,} bytes, the rest is stored unchanged",
    )
    proof = manifest.certificate
    ordered = proof.bound <= proof.predicted_kl_nats_per_token * (1 + _RELATIVE)
    yield Check(
        "lower bound", ordered, f"{proof.bound:.6g} <= {proof.predicted_kl_nats_per_token:.6g}"
    )


def check_checkpoint(manifest: Manifest, folder: Path) -> Iterator[Check]:
    """Check that the files in `folder` are what the manifest says.

    Raises InvalidModelError when the folder holds no checkpoint or a header cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    config = _config(folder)
    real = sum(file.stat().st_size for file in files)
    yield Check(
        "bytes on disk", real == manifest.file_bytes, f"{real:,}, promised {manifest.file_bytes:,}"
    )
    expected = manifest.quantization_config()
    yield Check(
        "formats in config.json",
        config.get("quantization") == expected,
        f"{len(expected) - 3} quantized modules",
    )
    stored = {name for file in files for name in _header(file)}
    wrong = list(_misplaced(manifest, stored))
    yield Check("stored arrays", not wrong, wrong[0] if wrong else f"{len(stored)} arrays")


def _misplaced(manifest: Manifest, stored: set[str]) -> Iterator[str]:
    for path, choice in manifest.modules.items():
        if f"{path}.weight" not in stored:
            yield f"{path}.weight is missing"
        elif (f"{path}.scales" in stored) != (choice.format != KEEP):
            yield f"{path} is not stored as {choice.format}"


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidModelError(
            where=str(file),
            found=type(error).__name__,
            expected="the config.json of a checkpoint",
            remedy="name the folder that bitbudget quantize wrote",
        ) from error
    return dict(config)


def _header(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(min(length, _MAX_HEADER_BYTES)))
        except ValueError as error:
            raise InvalidModelError(
                where=str(file),
                found=f"a header of {length} bytes that is not JSON",
                expected="a safetensors header",
                remedy="write the checkpoint again",
            ) from error
    return {name: entry for name, entry in header.items() if name != "__metadata__"}
