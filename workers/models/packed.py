"""How weights are stored that were quantized before, told by their tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import AlreadyQuantizedError
from bitbudget.workers.models.headers import SourceFile, TensorRef

__all__ = ["Layout", "check_dense", "packed_layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Who packs weights so, and an ending of the names of its tensors by which it is known."""

    maker: str
    ending: str


_MLX: Final = "MLX"
_REMEDY: Final = (
    "start from the original bf16, fp16 or fp32 checkpoint, or pass --allow-quantized-source where"
    " there is none"
)
_LAYOUTS: Final = (
    Layout("GPTQ", ".g_idx"),
    Layout("AWQ or GPTQ", ".qweight"),
    Layout("compressed-tensors", ".weight_packed"),
    Layout("bitsandbytes", ".absmax"),
    Layout("bitsandbytes", ".SCB"),
    Layout("ModelOpt", ".weight_scale_2"),
    Layout("MXFP4 blocks", "_blocks"),
    Layout(_MLX, ".scales"),
    Layout("8-bit numbers with scales", ".weight_scale"),
)
_FLOAT8: Final = (Dtype.F8_E4M3, Dtype.F8_E5M2)
_CONFIG_KEYS: Final = ("quantization", "quantization_config")


def packed_layout(tensors: Iterable[TensorRef]) -> str | None:
    """Return what quantized weights are, with a tensor that shows it; None for dense weights.

    8-bit floats with `_scale_inv` count as dense: mlx-lm's classes decode them when they load.
    """
    known = {tensor.name: tensor for tensor in tensors}
    for layout in _LAYOUTS:
        for name in known:
            if name.endswith(layout.ending) and _packs(name, layout, known):
                return f"packed by {layout.maker} ({name})"
    for tensor in known.values():
        if tensor.dtype in _FLOAT8 and f"{tensor.name}_scale_inv" not in known:
            return f"8-bit floats without scales ({tensor.name})"
    return None


def _packs(name: str, layout: Layout, known: Mapping[str, TensorRef]) -> bool:
    """Whether the tensor stands beside codes: a dense model may have a part called `scales`."""
    if layout.ending not in (".scales", ".weight_scale"):
        return True
    weight = known.get(f"{name.removesuffix(layout.ending)}.weight")
    return weight is not None and weight.dtype in (Dtype.U32, Dtype.I8, Dtype.U8, *_FLOAT8)


def check_dense(
    config: JsonObject,
    files: Iterable[SourceFile],
    folder: Path | None = None,
    *,
    allow_mlx: bool = False,
) -> tuple[JsonObject, tuple[str, ...]]:
    """Return `config` without what it says of quantization, and a note where it said so in vain.

    Raises AlreadyQuantizedError when the weights are packed, unless MLX did it and `allow_mlx`.
    """
    tensors = [tensor for file in files for tensor in file.tensors]
    layout = packed_layout(tensors) or _power_of_two_blocks(config)
    if layout is not None and not layout.startswith(f"packed by {_MLX} "):
        raise AlreadyQuantizedError(layout=layout)
    if layout is not None and not allow_mlx:
        raise AlreadyQuantizedError(layout=layout, remedy=_REMEDY)
    if layout is not None:
        dense = {key: value for key, value in config.items() if key not in _CONFIG_KEYS}
        return dense, (f"the source is {layout}: what it lost already is not seen",)
    named = [key for key in _CONFIG_KEYS if config.get(key)]
    if folder is not None and (folder / "hf_quant_config.json").is_file():
        named.append("hf_quant_config.json")
    if not named or any(tensor.dtype in _FLOAT8 for tensor in tensors):
        return config, ()
    dense = {key: value for key, value in config.items() if key not in _CONFIG_KEYS}
    return dense, (f"{named[0]} says that the weights are quantized; they are dense and used so",)


def _power_of_two_blocks(config: Mapping[str, Any]) -> str | None:
    """Return the one layout of 8-bit floats that mlx-lm keeps packed (mlx_lm.utils.load_model)."""
    quantization = config.get("quantization_config")
    if (
        isinstance(quantization, dict)
        and quantization.get("quant_method") == "fp8"
        and quantization.get("scale_fmt") == "ue8m0"
        and quantization.get("weight_block_size") == [32, 32]
    ):
        return "8-bit floats in blocks of 32 x 32, which mlx-lm keeps packed as MXFP8"
    return None
