"""A manifest as the JSON that a `quant_predicate` of stock mlx-lm looks up."""

from __future__ import annotations

import json

from bitbudget.app.core.export_target import Target
from bitbudget.app.core.exports.recipe import Recipe, check_plain
from bitbudget.app.core.manifest import Manifest

__all__ = ["mlx_lm_recipe"]


def mlx_lm_recipe(manifest: Manifest) -> Recipe:
    """Return `{path: {"bits", "group_size", "mode"} | false}`; every format is stock mlx-lm's own.

    Raises ConflictError for a rotated model.
    """
    check_plain(manifest, Target.MLX_LM)
    known = manifest.quantization_config()
    stated = {path: value for path, value in known.items() if isinstance(value, dict)}
    predicate = {path: stated.get(path, False) for path in manifest.modules}
    least = min((value["group_size"] for value in stated.values()), default=64)
    usage = (
        f"mlx_lm.convert(MODEL, OUT, quantize=True, q_group_size={least}, "
        "quant_predicate=lambda path, module: predicate.get(path, False))"
    )
    text = json.dumps(predicate, indent=1) + "\n"
    return Recipe(Target.MLX_LM, text, usage, sum(m.bytes for m in manifest.modules.values()))
