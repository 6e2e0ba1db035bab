"""Whether weights were quantized before, told by their tensors, and the dense ones they stand for.

For users who have nothing else (`--allow-quantized-source`): the reference is then the quantized
model, and what is lost against the original before that is not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import mlx.core as mx

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import AlreadyQuantizedError
from bitbudget.workers.models.decoders import Settings
from bitbudget.workers.models.headers import SourceFile, TensorRef
from bitbudget.workers.models.language_part import setting
from bitbudget.workers.models.layouts import (
    LAYOUTS,
    PLAIN_FLOAT8,
    SCALED_FLOAT8,
    Layout,
    layout_of,
)

__all__ = ["Packed", "check_dense", "packed_weights"]

_CONFIG_KEYS: Final = ("quantization", "quantization_config")
_UNUSED: Final = (".input_scale", ".activation_scale", ".k_scale", ".v_scale", ".q_scale")
"""Scales of activations, which say nothing of weights."""


@dataclass(frozen=True, slots=True)
class Packed:
    """The weights that files hold as codes: `parts` has each one's layout and stem by its name."""

    parts: Mapping[str, tuple[Layout, str]] = field(default_factory=dict)
    tensors: Mapping[str, TensorRef] = field(default_factory=dict)
    quantization: JsonObject = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """The names of the dense weights."""
        return frozenset(self.parts)

    def dense(self, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """Return the arrays with every packed weight decoded, lazily.

        Raises AlreadyQuantizedError, which names the tensor, for a form of a layout that is not
        read, such as groups that MLX has no kernel for.
        """
        if not self.parts:
            return dict(arrays)
        used = {stem + part for layout, stem in self.parts.values() for part in layout.parts}
        found = {
            name: array
            for name, array in arrays.items()
            if name not in used and not name.endswith(_UNUSED)
        }
        return found | {name: self._decoded(name, arrays) for name in self.parts}

    def _decoded(self, name: str, arrays: Mapping[str, mx.array]) -> mx.array:
        layout, stem = self.parts[name]
        own = {part: stem + part for part in layout.parts if stem + part in arrays}
        stored = {part: self.tensors[full].dtype for part, full in own.items()}
        settings = Settings(stem, self.quantization, stored)
        assert layout.decode is not None  # noqa: S101, `packed_weights` takes no others
        try:
            return layout.decode({part: arrays[full] for part, full in own.items()}, settings)
        except (KeyError, ValueError, TypeError, ArithmeticError) as error:
            reason = f"{layout.found} in a form that is not read ({name}: {error})"
            raise AlreadyQuantizedError(
                layout=reason,
                remedy="start from the original bf16, fp16 or fp32 checkpoint",
            ) from error


def packed_weights(config: JsonObject, files: Iterable[SourceFile]) -> Packed:
    """Return what is stored as codes; `config` is the source's own, with its `quantization`."""
    tensors = {tensor.name: tensor for file in files for tensor in file.tensors}
    parts = dict(_found(tensors))
    return Packed(parts, tensors, _quantization(config))


def _found(tensors: Mapping[str, TensorRef]) -> Iterator[tuple[str, tuple[Layout, str]]]:
    seen: set[str] = set()
    for layout in (*LAYOUTS, SCALED_FLOAT8):
        for stem in layout.stems(tensors):
            if stem not in seen and layout.decode is not None:
                seen |= {stem, f"{stem}{layout.dense}"}
                yield f"{stem}{layout.dense}", (layout, stem)
    for name in tensors:
        is_known = name in seen or name.endswith((".weight_scale", *_UNUSED))
        if not is_known and PLAIN_FLOAT8.holds([tensors[name]]):
            yield name, (PLAIN_FLOAT8, name)


def _quantization(config: Mapping[str, Any]) -> JsonObject:
    """Return what the configuration says of it, of the model or of its language part."""
    stated = setting(config, *_CONFIG_KEYS)
    return dict(stated) if isinstance(stated, dict) else {}


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
        if not allow_packed or layout.decode is None:
            raise layout.refusal(where)
        note = f"the source is {layout.found} ({where}): what it lost already is not seen"
        return _without(config), (note,)
    named = [key for key in _CONFIG_KEYS if config.get(key)]
    if folder is not None and (folder / "hf_quant_config.json").is_file():
        named.append("hf_quant_config.json")
    if not named or any(tensor.name.endswith(SCALED_FLOAT8.known_by) for tensor in tensors):
        return config, ()
    note = f"{named[0]} says that the weights are quantized; they are dense and used so"
    return _without(config), (note,)


def _without(config: JsonObject) -> JsonObject:
    return {key: value for key, value in config.items() if key not in _CONFIG_KEYS}


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
