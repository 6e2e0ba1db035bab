"""The layouts of weights that were quantized before: how each is known and what becomes of it.

`docs/models.md` shows this table; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.errors import AlreadyQuantizedError
from bitbudget.workers.files.headers import TensorRef

__all__ = [
    "GGUF",
    "LAYOUTS",
    "MLX",
    "PLAIN_FLOAT8",
    "SCALE",
    "SCALED_FLOAT8",
    "Coding",
    "Layout",
    "layout_of",
]

SCALE: Final = "_scale_inv"
"""What follows the name of an 8-bit float weight in that of its scales."""

_FLOAT8: Final = (Dtype.F8_E4M3, Dtype.F8_E5M2)
_ALLOW: Final = (
    "start from the original bf16, fp16 or fp32 checkpoint, or pass --allow-quantized-source where"
    " there is none"
)
_BY_TRANSFORMERS: Final = (
    "start from the original bf16, fp16 or fp32 checkpoint; where there is none, load it with"
    " transformers and torch, which decode it ({how}), and save_pretrained"
)


class Coding(StrEnum):
    """The codes that can be decoded; `workers.models.decoders` has a function for each."""

    GPTQ = "gptq"
    AWQ = "awq"
    COMPRESSED_TENSORS = "compressed_tensors"
    MODELOPT = "modelopt"
    MXFP4_BLOCKS = "mxfp4_blocks"
    MLX = "mlx"
    SCALED_8_BITS = "scaled_8_bits"


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to store quantized weights.

    It is known by a tensor whose name ends in `known_by`, if `holds` of the tensors of that weight.
    `parts` are the endings of all arrays of one weight, codes first; `dense` is what ends the name
    of the decoded weight. Without `coding` it is refused, and `remedy` says what to do.
    """

    found: str
    known_by: str
    parts: tuple[str, ...] = ()
    dense: str = ".weight"
    holds: Callable[[Sequence[TensorRef | None]], bool] = any
    coding: Coding | None = None
    remedy: str = _ALLOW

    def stems(self, tensors: Mapping[str, TensorRef]) -> Iterator[str]:
        """Yield what comes before the endings, for each weight that is stored so."""
        for name in tensors:
            if not name.endswith(self.known_by):
                continue
            stem = name.removesuffix(self.known_by)
            if not self.parts or self.holds([tensors.get(stem + part) for part in self.parts]):
                yield stem

    def refusal(self, where: str) -> AlreadyQuantizedError:
        """Return the error for weights of which the tensor `where` is one."""
        return AlreadyQuantizedError(layout=f"{self.found} ({where})", remedy=self.remedy)


def _codes_are(*dtypes: Dtype) -> Callable[[Sequence[TensorRef | None]], bool]:
    def holds(parts: Sequence[TensorRef | None]) -> bool:
        return parts[0] is not None and parts[0].dtype in dtypes

    return holds


def _packs_rows(parts: Sequence[TensorRef | None]) -> bool:
    """Whether words hold codes of one output each, as GPTQ's do: a scale is as wide as a word."""
    words, _, scales, *_ = parts
    return words is not None and scales is not None and words.shape[-1] == scales.shape[-1]


_COMPRESSED: Final = (
    *(".weight_packed", ".weight_scale", ".weight_zero_point", ".weight_g_idx", ".weight_shape"),
    *(".weight_global_scale", ".input_global_scale", ".input_scale", ".input_zero_point"),
)

SCALED_FLOAT8: Final = Layout(
    "8-bit floats with scales",
    SCALE,
    ("", SCALE),
    dense="",
    holds=_codes_are(Dtype.I8, *_FLOAT8),
    coding=Coding.SCALED_8_BITS,
)
"""Many classes of mlx-lm decode these when they load; only others need a flag."""

PLAIN_FLOAT8: Final = Layout(
    "8-bit floats without scales",
    "",
    ("",),
    dense="",
    holds=_codes_are(*_FLOAT8),
    coding=Coding.SCALED_8_BITS,
)

MLX: Final = Layout(
    "packed by MLX",
    ".scales",
    (".weight", ".scales", ".biases"),
    holds=_codes_are(Dtype.U32),
    coding=Coding.MLX,
)

GGUF: Final = Layout(
    "packed as GGUF",
    ".gguf",
    remedy=_BY_TRANSFORMERS.format(how='from_pretrained(FOLDER, gguf_file="NAME.gguf")'),
)

LAYOUTS: Final = (
    Layout(
        "packed by GPTQ",
        ".qweight",
        (".qweight", ".qzeros", ".scales", ".g_idx"),
        holds=_packs_rows,
        coding=Coding.GPTQ,
    ),
    Layout("packed by AWQ", ".qweight", (".qweight", ".qzeros", ".scales"), coding=Coding.AWQ),
    Layout(
        "packed by compressed-tensors",
        ".weight_packed",
        _COMPRESSED,
        coding=Coding.COMPRESSED_TENSORS,
    ),
    Layout(
        "packed by bitsandbytes",
        ".absmax",
        remedy=_BY_TRANSFORMERS.format(how="model.dequantize()"),
    ),
    Layout(
        "packed by bitsandbytes", ".SCB", remedy=_BY_TRANSFORMERS.format(how="model.dequantize()")
    ),
    Layout(
        "packed by ModelOpt",
        ".weight_scale_2",
        (".weight", ".weight_scale", ".weight_scale_2", ".input_scale"),
        holds=_codes_are(Dtype.U8),
        coding=Coding.MODELOPT,
    ),
    Layout("packed as MXFP4 blocks", "_blocks", ("_blocks", "_scales"), coding=Coding.MXFP4_BLOCKS),
    MLX,
    Layout(
        "packed as 8-bit numbers with scales",
        ".weight_scale",
        (".weight", ".weight_scale", ".weight_zero_point", ".input_scale", ".input_zero_point"),
        holds=_codes_are(Dtype.I8, *_FLOAT8),
        coding=Coding.SCALED_8_BITS,
    ),
    Layout(
        "packed as bytes with scales",
        ".weight_scale",
        (".weight",),
        holds=_codes_are(Dtype.U8),
        remedy="start from the original bf16, fp16 or fp32 checkpoint",
    ),
)
"""In the order in which they are looked for; `SCALED_FLOAT8` and `PLAIN_FLOAT8` come after."""


def layout_of(tensors: Iterable[TensorRef]) -> tuple[Layout, str] | None:
    """Return how quantized weights are stored, with a tensor that shows it; None for dense ones.

    8-bit floats with `_scale_inv` count as dense: most of mlx-lm's classes decode them.
    """
    known = {tensor.name: tensor for tensor in tensors}
    for layout in LAYOUTS:
        for stem in layout.stems(known):
            return layout, stem + layout.known_by
    for tensor in known.values():
        plain = tensor.dtype in _FLOAT8
        if plain and f"{tensor.name}{SCALED_FLOAT8.known_by}" not in known:
            return PLAIN_FLOAT8, tensor.name
    return None
