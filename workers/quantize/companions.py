"""Everything of a checkpoint folder but the weights."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bitbudget import own_formats, rotated_model
from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.inventory import Inventory
from bitbudget.app.core.layout import Shard
from bitbudget.app.core.manifest import Manifest
from bitbudget.rotated_model import KEY
from bitbudget.workers.files.folder import INDEX_NAME, encode_floats, json_object_or_empty
from bitbudget.workers.files.language_part import TEXT, text_part
from bitbudget.workers.models import Checkpoint
from bitbudget.workers.models.given import belongs_to
from bitbudget.workers.models.tokenizer import write_fast_tokenizer
from bitbudget.workers.quantize.card import model_card

__all__ = ["COPIED", "write_companions"]

MODEL_FILE: Final = "bitbudget.load.py"
"""The copy of `bitbudget.rotated_model` in a checkpoint that stock mlx-lm does not load.

A loader that refuses to run it quotes its name, which is that of the function that does load it.
"""

OUR_CODE: Final = {
    MODEL_FILE: Path(rotated_model.__file__),
    rotated_model.FORMATS_FILE: Path(own_formats.__file__),
}
"""Files of such a checkpoint that are copies of this package's."""

COPIED: Final = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "*vocab*",
    "*merges*",
    "*.tiktoken",
    "*.model",
    "*.jinja",
    "chat_template*",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "additional_chat_templates/*.jinja",
    "*.codes",
    "LICENSE*",
    "NOTICE*",
)
"""Files of the source that belong to the result, too: what stock mlx-lm keeps, and the licence."""

_DTYPES: Final = {Dtype.BF16: "bfloat16", Dtype.F16: "float16", Dtype.F32: "float32"}
_NEVER: Final = (".py", ".pkl", ".pt", ".bin", ".safetensors")
_CODE_NAME: Final = re.compile(r"[A-Za-z0-9_]+")


def write_companions(
    checkpoint: Checkpoint,
    target: Path,
    manifest: Manifest,
    inventory: Inventory,
    shards: Sequence[Shard],
) -> None:
    """Write configuration, index, manifest and card, and copy tokenizer and generation files."""
    for path in _kept_files(checkpoint.folder):
        place = target / path.relative_to(checkpoint.folder)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)
    if not (target / "tokenizer.json").is_file():
        write_fast_tokenizer(checkpoint.folder, target)
    config = checkpoint.config
    written = quantized_config(config, manifest)
    if manifest.has_own_formats:
        written |= {own_formats.KEY: _own_entry(manifest, inventory), "model_file": MODEL_FILE}
    _write_json(target / "config.json", written)
    _write_json(target / INDEX_NAME, _index(inventory, shards))
    if KEY in config or manifest.has_own_formats:
        for name, ours in OUR_CODE.items():
            shutil.copyfile(ours, target / name)
    (target / "manifest.json").write_bytes(manifest.to_bytes())
    (target / "README.md").write_text(model_card(manifest, inventory), encoding="utf-8")


def _kept_files(folder: Path) -> list[Path]:
    found = [path for pattern in COPIED for path in sorted(folder.glob(pattern))]
    plain = [path for path in found if path.suffix not in _NEVER]
    found = [*plain, *_tokenizer_code(folder)]
    return [path for path in found if belongs_to(path, folder)]


def _tokenizer_code(folder: Path) -> list[Path]:
    """Return the files of the tokenizer's own code: without them its output loads nowhere.

    They are copied and never run; whoever loads the result decides about that.
    """
    config = json_object_or_empty(folder / "tokenizer_config.json")
    try:
        entries = config["auto_map"]["AutoTokenizer"]
    except (KeyError, TypeError):
        return []
    entries = entries if isinstance(entries, list) else [entries]
    names = {str(entry).rsplit("--", 1)[-1].split(".")[0] for entry in entries if entry}
    return [folder / f"{name}.py" for name in sorted(names) if _CODE_NAME.fullmatch(name)]


def quantized_config(config: JsonObject, manifest: Manifest) -> JsonObject:
    """Return `config` with the formats of `manifest` as stock mlx-lm reads them.

    A rotation that runs in kernels needs code of ours, which is named as `model_file`; so do
    formats of our own.
    What the source said of its own quantization (FP8) is dropped: those weights are dense now. A
    vision tower's configuration goes, too, as `mlx_lm.utils.save_config` does.
    """
    dropped = ("quantization", "quantization_config", "vision_config", "_name_or_path")
    result = {key: value for key, value in config.items() if key not in dropped}
    text = text_part(result)
    if text:
        result[TEXT] = {k: v for k, v in text.items() if k != "quantization_config"}
    if KEY in result:
        result["model_file"] = MODEL_FILE
    quantization = manifest.quantization_config()
    if any(isinstance(value, dict) for value in quantization.values()):
        result["quantization"] = quantization
        result["quantization_config"] = quantization
    return result


def _own_entry(manifest: Manifest, inventory: Inventory) -> JsonObject:
    """Return what the loader must know of formats of our own: their version, the weights' dtype."""
    own = [m for m in inventory.modules if not manifest.modules[m.path].format.is_stock]
    return {"version": own_formats.VERSION, "dtype": _DTYPES[own[0].dtype]}


def _index(inventory: Inventory, shards: Sequence[Shard]) -> JsonObject:
    arrays = [(array, shard.filename) for shard in shards for array in shard.arrays]
    return {
        "metadata": {
            "total_size": sum(array.nbytes for array, _ in arrays),
            "total_parameters": inventory.weights
            + sum(array.nbytes // array.dtype.itemsize for array in inventory.passthrough),
        },
        "weight_map": {array.name: filename for array, filename in sorted(arrays, key=_by_name)},
    }


def _by_name(item: tuple[Any, str]) -> str:
    return str(item[0].name)


def _write_json(path: Path, value: JsonObject) -> None:
    strict = encode_floats(value)
    text = json.dumps(strict, indent=4, sort_keys=True, allow_nan=False)
    path.write_text(f"{text}\n", encoding="utf-8")
