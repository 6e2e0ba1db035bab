"""The lines of Python that apply a manifest with stock mlx-lm, without bitbudget."""

from __future__ import annotations

from typing import Final

from bitbudget.app.core.manifest import Manifest

__all__ = ["stock_recipe"]

_LINES: Final = """\
import json

from mlx_lm import convert

with open({manifest!r}, encoding="utf-8") as file:
    modules = json.load(file)["modules"]

FLOAT = {{"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}}


def choose(path, module):
    name = modules.get(path, {{"format": "keep"}})["format"]
    if name == "keep":
        return False
    if name in FLOAT:
        bits, group_size = FLOAT[name]
        return {{"bits": bits, "group_size": group_size, "mode": name}}
    bits, group_size = map(int, name.removeprefix("affine").split("g"))
    return {{"bits": bits, "group_size": group_size, "mode": "affine"}}


convert(
    {model!r},
    {output!r},
    quantize=True,
    q_group_size={group_size},  # mlx-lm skips modules whose width this does not divide
    quant_predicate=choose,
)
"""


def stock_recipe(manifest: Manifest, manifest_path: str, model: str, output: str) -> str:
    """Return a script that makes a checkpoint of the manifest's formats with `mlx_lm.convert`.

    Its codes are those of `mx.quantize`; only the formats are the manifest's.
    """
    widths = [choice.format.group_size for choice in manifest.modules.values()]
    smallest = min((width for width in widths if width), default=64)
    return _LINES.format(manifest=manifest_path, model=model, output=output, group_size=smallest)
