"""The lines of Python that apply a manifest with stock mlx-lm, without bitbudget."""

from __future__ import annotations

from typing import Final

from bitbudget.app.core.errors import ConflictError
from bitbudget.app.core.manifest import Manifest

__all__ = ["STOCK_LINES", "stock_recipe"]

STOCK_LINES: Final = """\
import json
import shutil
from pathlib import Path

from mlx_lm import convert

MANIFEST, MODEL, OUT = "manifest.json", "MODEL", "OUT"
FLOAT = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}


def entry(name):
    mode = name if name in FLOAT else "affine"
    bits, group_size = FLOAT.get(name) or map(int, name.removeprefix("affine").split("g"))
    return {"bits": bits, "group_size": group_size, "mode": mode}


manifest = json.loads(Path(MANIFEST).read_text(encoding="utf-8"))
formats = {path: module["format"] for path, module in manifest["modules"].items()}
chosen = {path: entry(name) for path, name in formats.items() if name != "keep"}
convert(
    MODEL,
    OUT,
    quantize=True,
    # mlx-lm leaves out every module whose width the default group does not divide.
    q_group_size=min((entry["group_size"] for entry in chosen.values()), default=64),
    quant_predicate=lambda path, module: chosen.get(path, False),
)

config = json.loads(Path(OUT, "config.json").read_text(encoding="utf-8"))
written = {path: value for path, value in config["quantization"].items() if path in formats}
nbytes = sum(file.stat().st_size for file in Path(OUT).glob("*.safetensors"))
if written != chosen or nbytes > manifest["file_bytes"]:
    shutil.rmtree(OUT)
    raise SystemExit(f"{nbytes} bytes, {manifest['file_bytes']} in the manifest: not for MODEL")
config |= manifest["model"]["config"]  # rope_theta and others, as mlx-lm's class reads them
Path(OUT, "config.json").write_text(json.dumps(config, indent=4), encoding="utf-8")
"""
"""What README.md shows, too; the three names in the line `MANIFEST, MODEL, OUT` are placeholders.

The codes are those of `mx.quantize`; formats and array bytes are the manifest's. The file is never
larger than the manifest says: its header is not padded.
"""

_PLACES: Final = 'MANIFEST, MODEL, OUT = "manifest.json", "MODEL", "OUT"'


def stock_recipe(manifest: Manifest, manifest_path: str, model: str, output: str) -> str:
    """Return a script that makes a checkpoint of the manifest's formats with `mlx_lm.convert`.

    Raises ConflictError for a rotated model: its weights are not those that mlx-lm would read.
    """
    if manifest.rotation != "none":
        raise ConflictError(
            what="manifest",
            name=manifest_path,
            reason=f"it is for weights with the rotation {manifest.rotation!r}, which stock "
            "mlx-lm does not apply",
            remedy="write the checkpoint with bitbudget quantize",
        )
    places = f"MANIFEST, MODEL, OUT = {manifest_path!r}, {model!r}, {output!r}"
    if "/" not in model:  # a folder's own name: where it lies, no manifest says
        places += "  # MODEL: the original's folder, or org/name"
    return STOCK_LINES.replace(_PLACES, places)
