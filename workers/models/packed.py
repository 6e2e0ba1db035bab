"""The dense weights that packed ones stand for.

For users who have nothing else (`--allow-quantized-source`): the reference is then the quantized
model, and what is lost against the original before that is not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import mlx.core as mx

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.errors import AlreadyQuantizedError
from bitbudget.workers.files.dense import QUANTIZATION_KEYS
from bitbudget.workers.files.headers import SourceFile, TensorRef
from bitbudget.workers.files.language_part import setting
from bitbudget.workers.files.layouts import (
    LAYOUTS,
    PLAIN_FLOAT8,
    SCALED_FLOAT8,
    Layout,
)
from bitbudget.workers.models.decoders import DECODERS, Settings

__all__ = ["Packed", "packed_weights"]

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
        assert layout.coding is not None  # noqa: S101, `packed_weights` takes no others
        decode = DECODERS[layout.coding]
        try:
            return decode({part: arrays[full] for part, full in own.items()}, settings)
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
            if stem not in seen and layout.coding is not None:
                seen |= {stem, f"{stem}{layout.dense}"}
                yield f"{stem}{layout.dense}", (layout, stem)
    for name in tensors:
        is_known = name in seen or name.endswith((".weight_scale", *_UNUSED))
        if not is_known and PLAIN_FLOAT8.holds([tensors[name]]):
            yield name, (PLAIN_FLOAT8, name)


def _quantization(config: Mapping[str, Any]) -> JsonObject:
    """Return what the configuration says of it, of the model or of its language part."""
    stated = setting(config, *QUANTIZATION_KEYS)
    return dict(stated) if isinstance(stated, dict) else {}
