"""Checks of a manifest against itself and against the files of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.app.core.inventory import StoredArray
from bitbudget.app.core.layout import header_bytes, planned_bytes
from bitbudget.app.core.manifest import Manifest

__all__ = ["Check", "check_checkpoint", "check_manifest"]

_MAX_HEADER_BYTES = 100 * 2**20
_RELATIVE = 1e-9
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One statement about a manifest and whether it holds."""

    name: str
    holds: bool
    detail: str

    def document(self) -> JsonObject:
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
    """Check that the files in `folder` hold what the manifest says, by the arrays in them.

    A checkpoint that `bitbudget quantize` wrote has exactly the promised bytes; one that stock
    mlx-lm made with `bitbudget manifest apply` has the same arrays behind shorter headers.

    Raises InvalidModelError when the folder holds no checkpoint or a header cannot be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    real = sum(file.stat().st_size for file in files)
    promised = manifest.file_bytes
    stored = {array.name: array for file in files for array in _arrays(file)}
    planned = planned_bytes(stored.values())
    shards, rest = divmod(promised - planned, header_bytes(()))
    yield Check(
        "bytes of the arrays",
        shards > 0 and not rest and real <= promised,
        f"{planned:,} in {len(stored)} arrays and their headers, promised {promised:,} with"
        f" {header_bytes(())} for each file",
    )
    how = "written by bitbudget" if real == promised else "headers not padded, as stock mlx-lm's"
    yield Check("bytes on disk", real <= promised, f"{real:,} of {promised:,}: {how}")
    yield _formats_in_config(manifest, _config(folder))
    wrong = list(_wrong(manifest, stored))
    good = f"{len(manifest.modules)} modules hold the formats of the manifest"
    yield Check("formats in the files", not wrong, "; ".join(wrong[:_MOST_NAMED]) or good)


def _formats_in_config(manifest: Manifest, config: JsonObject) -> Check:
    entries = config.get("quantization") or {}
    found = {k: {"mode": "affine", **v} for k, v in entries.items() if isinstance(v, dict)}
    expected = {k: v for k, v in manifest.quantization_config().items() if isinstance(v, dict)}
    written = [path for path in manifest.modules if found.get(path) != expected.get(path)]
    said = [f"{path}: {found.get(path)}, not {expected.get(path)}" for path in written[:1]]
    detail = "".join(said) or f"{len(expected)} quantized modules"
    return Check("formats in config.json", not written, detail)


def _wrong(manifest: Manifest, stored: dict[str, StoredArray]) -> Iterator[str]:
    """Say of each module that is stored otherwise what was found."""
    for path, choice in manifest.modules.items():
        names = (f"{path}.weight", f"{path}.scales", f"{path}.biases")
        found = [stored[name] for name in names if name in stored]
        if not found or found[0].name != names[0]:
            yield f"{path}.weight is missing"
        elif not _holds(choice.format, found) or planned_bytes(found) != choice.bytes:
            shapes = ", ".join(f"{a.dtype} {list(a.shape)}" for a in found)
            yield f"{path} is not {choice.format} in {choice.bytes:,} bytes: it holds {shapes}"


def _holds(format_: Format, found: list[StoredArray]) -> bool:
    """Whether arrays are those of a module in this format, whatever the module's width."""
    weight, *others = found
    if format_ == KEEP or not others:
        return format_ == KEEP and not others
    shape = (*weight.shape[:-1], others[0].shape[-1] * format_.group_size)
    wanted = [(a.dtype, a.shape) for a in format_.arrays(shape, others[0].dtype)]
    return wanted == [(array.dtype, array.shape) for array in found]


def _arrays(file: Path) -> Iterator[StoredArray]:
    for name, entry in _header(file).items():
        try:
            yield StoredArray(name, Dtype(entry["dtype"]), tuple(entry["shape"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidModelError(
                where=f"{file}, array {name!r}",
                found=str(entry)[:80],
                expected="a dtype and a shape of the safetensors format",
                remedy="write the checkpoint again",
            ) from error


def _config(folder: Path) -> JsonObject:
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


def _header(file: Path) -> JsonObject:
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
