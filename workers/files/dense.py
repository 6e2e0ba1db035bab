"""Whether weights were quantized before, told by their tensors and not by config.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from bitbudget.app.core.canonical import JsonObject
from bitbudget.workers.files.headers import SourceFile, TensorRef
from bitbudget.workers.files.layouts import SCALED_FLOAT8, Layout, layout_of

__all__ = ["QUANTIZATION_KEYS", "check_dense"]

QUANTIZATION_KEYS: Final = ("quantization", "quantization_config")
"""What config.json says of quantized weights under."""


def check_dense(
    config: JsonObject,
    files: Iterable[SourceFile],
    folder: Path | None = None,
    *,
    allow_packed: bool = False,
) -> tuple[JsonObject, tuple[str, ...]]:
    """Return `config` without what it says of quantization, and a note where it said so in vain.

    Raises AlreadyQuantizedError when the weights are packed, unless they can be decoded and
    `allow_packed`.
    """
    tensors = [tensor for file in files for tensor in file.tensors]
    known = layout_of(tensors) or _scaled_float8(config, tensors, allow_packed=allow_packed)
    if known is not None:
        layout, where = known
        if not allow_packed or layout.coding is None:
            raise layout.refusal(where)
        note = f"the source is {layout.found} ({where}): what it lost already is not seen"
        return _without(config), (note,)
    named = [key for key in QUANTIZATION_KEYS if config.get(key)]
    if folder is not None and (folder / "hf_quant_config.json").is_file():
        named.append("hf_quant_config.json")
    if not named or any(tensor.name.endswith(SCALED_FLOAT8.known_by) for tensor in tensors):
        return config, ()
    note = f"{named[0]} says that the weights are quantized; they are dense and used so"
    return _without(config), (note,)


def _without(config: JsonObject) -> JsonObject:
    return {key: value for key, value in config.items() if key not in QUANTIZATION_KEYS}


def _scaled_float8(
    config: Mapping[str, Any], tensors: Iterable[TensorRef], *, allow_packed: bool
) -> tuple[Layout, str] | None:
    """Return 8-bit floats with scales where they are to be decoded here, not by mlx-lm's class.

    That is where it is allowed, and for the one kind that stock mlx-lm keeps packed as MXFP8
    (`mlx_lm.utils.load_model`).
    """
    stays_packed = (
        isinstance(quantization := config.get("quantization_config"), Mapping)
        and quantization.get("quant_method") == "fp8"
        and quantization.get("scale_fmt") == "ue8m0"
        and list(quantization.get("weight_block_size") or ()) == [32, 32]
    )
    if not allow_packed and not stays_packed:
        return None
    known = {tensor.name: tensor for tensor in tensors}
    for stem in SCALED_FLOAT8.stems(known):
        return SCALED_FLOAT8, f"{stem}{SCALED_FLOAT8.known_by}"
    return None
