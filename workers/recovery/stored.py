"""What a checkpoint stores of a quantized module, as values that training can move.

Codes stay. `u` and `v` move the rest in units of rounding errors: one of either moves the weights
of a group, or of what shares parameters, by one step, root mean square. `u` turns the scale around
the middle of the codes, `v` shifts; both of zero are what is stored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import mlx.core as mx

from bitbudget.own_formats import MIDDLE, SPAN, OwnFormat, unpacked, zero_points

__all__ = ["AffineStored", "Stored", "read_codes", "read_stored"]

_LEAST_SPREAD: Final = 0.5
"""Of the codes of a group, in steps: where they are all the same their scale hardly matters."""

Parameters = dict[str, mx.array]
"""Float32 arrays by what they are called in the checkpoint, `scales` for instance."""


@dataclass(frozen=True)
class Stored(ABC):
    """One module as stored, its codes uint8 (..., out, groups, group).

    There are no codes where they are read from the checkpoint whenever they are needed.
    """

    codes: mx.array
    dtype: mx.Dtype
    """Of the parameters in the checkpoint."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of `u` and `v`."""

    @abstractmethod
    def parameters(self, u: mx.array, v: mx.array) -> Parameters:
        """Return the parameters that `u` and `v` lead to."""

    @abstractmethod
    def grid(self, parameters: Parameters) -> tuple[mx.array, mx.array]:
        """Return float32 scales and biases (..., out, groups): weights are scale * code + bias."""

    def rounded(self, parameters: Parameters) -> Parameters:
        """Return the parameters as they would be read back."""
        return {name: a.astype(self.dtype).astype(mx.float32) for name, a in parameters.items()}

    def with_codes(self, codes: mx.array | None) -> Self:
        """Return the same with these codes, or with none."""
        return replace(self, codes=mx.zeros(0, mx.uint8) if codes is None else codes)

    def weight(self, parameters: Parameters) -> mx.array:
        """Return the float32 weight (..., out, in)."""
        scales, biases = self.grid(parameters)
        return (self.codes * scales[..., None] + biases[..., None]).flatten(-2, -1)

    def loss(self, weight: mx.array) -> float:
        """Return the root mean square error over that of the weights."""
        value = self.weight(self.parameters(mx.zeros(self.shape), mx.zeros(self.shape)))
        weight = weight.reshape(value.shape)
        return float(
            mx.sqrt(((value - weight) ** 2).mean() / mx.maximum((weight**2).mean(), 1e-30))
        )


@dataclass(frozen=True)
class AffineStored(Stored):
    """Scales and biases (..., out, groups) of mlx-lm; `middle` and `spread` are of the codes."""

    codes: mx.array
    dtype: mx.Dtype
    scales: mx.array
    biases: mx.array
    middle: mx.array
    spread: mx.array

    @property
    def shape(self) -> tuple[int, ...]:
        """One `u` and `v` a group."""
        return self.scales.shape

    def parameters(self, u: mx.array, v: mx.array) -> Parameters:
        """Return scales and biases."""
        turned = u / self.spread
        biases = self.biases + self.scales * (v - self.middle * turned)
        return {"scales": self.scales * (1 + turned), "biases": biases}

    def grid(self, parameters: Parameters) -> tuple[mx.array, mx.array]:
        """Return the parameters themselves."""
        return parameters["scales"], parameters["biases"]


@dataclass(frozen=True)
class _Centered(Stored):
    """Scales (..., out, groups) around fixed zero points; `v` moves nothing."""

    codes: mx.array
    dtype: mx.Dtype
    scales: mx.array
    zeros: mx.array
    spread: mx.array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.scales.shape

    def parameters(self, u: mx.array, v: mx.array) -> Parameters:
        del v
        return {"scales": self.scales * (1 + u / self.spread)}

    def grid(self, parameters: Parameters) -> tuple[mx.array, mx.array]:
        return parameters["scales"], -(parameters["scales"] * self.zeros)


@dataclass(frozen=True)
class _TwoLevel(Stored):
    """Spans (..., out, spans, 2) of D and M above fixed small scales and minima of groups.

    D turns around what M can make up for, `pivot` M for each D; `turn` and `shift` are what a `u`
    and a `v` of one move D and M by, over D.
    """

    codes: mx.array
    dtype: mx.Dtype
    spans: mx.array
    small: mx.array
    minima: mx.array
    numbers: mx.array
    pivot: mx.array
    turn: mx.array
    shift: mx.array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spans.shape[:-1]

    def parameters(self, u: mx.array, v: mx.array) -> Parameters:
        step, low = self.spans[..., 0], self.spans[..., 1]
        turned = u * self.turn
        low = low + step * (turned * self.pivot + v * self.shift)
        return {"spans": mx.stack([step * (1 + turned), low], axis=-1)}

    def grid(self, parameters: Parameters) -> tuple[mx.array, mx.array]:
        own = parameters["spans"][..., self.numbers, :]
        return own[..., 0] * self.small, -(own[..., 1] * self.minima)


@dataclass(frozen=True, slots=True)
class _Codes:
    """Codes (..., out, groups, group) with mean and deviation of each group."""

    codes: mx.array
    middle: mx.array = field(init=False)
    deviation: mx.array = field(init=False)

    def __post_init__(self) -> None:
        wide = self.codes.astype(mx.float32)
        object.__setattr__(self, "middle", wide.mean(-1))
        object.__setattr__(self, "deviation", mx.std(wide, axis=-1))


def read_codes(module: Any) -> mx.array:
    """Return the codes uint8 (..., out, groups, group) of a quantized module, not evaluated."""
    flat = unpacked(module.weight, module.bits)
    return mx.unflatten(flat, -1, (-1, module.group_size)).astype(mx.uint8)


def read_stored(module: Any) -> Stored:
    """Read a quantized module: affine, or of one of our own formats."""
    codes = _Codes(read_codes(module))
    if not isinstance(module, OwnFormat):
        stored = _affine(module, codes)
    elif "spans" in module:
        stored = _two_level(module, codes)
    else:
        stored = _centered(module, codes)
    mx.eval([value for value in vars(stored).values() if isinstance(value, mx.array)])
    return stored


def _affine(module: Any, found: _Codes) -> Stored:
    return AffineStored(
        found.codes,
        module.scales.dtype,
        module.scales.astype(mx.float32),
        module.biases.astype(mx.float32),
        found.middle,
        mx.maximum(found.deviation, _LEAST_SPREAD),
    )


def _centered(module: Any, found: _Codes) -> Stored:
    scales = module.scales.astype(mx.float32)
    zeros = mx.full(scales.shape, float(MIDDLE))
    if "zero_points" in module:
        zeros = zero_points(module.zero_points, scales.shape[-1]).astype(mx.float32)
    spread = mx.sqrt(found.deviation**2 + (found.middle - zeros) ** 2)
    return _Centered(
        found.codes,
        module.scales.dtype,
        scales,
        zeros,
        mx.maximum(spread, _LEAST_SPREAD),
    )


def _two_level(module: Any, found: _Codes) -> Stored:
    """Read D, M and the small scales c and minima m; a weight of code q is D c q - M m."""
    spans = module.spans.astype(mx.float32)
    small, minima = (a.astype(mx.float32) for a in (module.scales & 15, module.scales >> 4))
    numbers = mx.arange(small.shape[-1]) * module.group_size // SPAN
    of_span = (numbers[:, None] == mx.arange(spans.shape[-2])).astype(mx.float32)
    counts = of_span.sum(0)
    scale, low = (mx.sqrt((a**2) @ of_span / counts) for a in (small, minima))
    links = (small * found.middle * minima) @ of_span / counts
    pivot = mx.where(low > 0, links / mx.maximum(low, 1e-6) ** 2, 0.0)
    power = (small**2 * (found.deviation**2 + found.middle**2)) @ of_span / counts
    moved = mx.sqrt(mx.maximum(power - (pivot * low) ** 2, (_LEAST_SPREAD * scale) ** 2))
    return _TwoLevel(
        found.codes,
        module.spans.dtype,
        spans,
        small,
        minima,
        numbers,
        pivot,
        mx.where(scale > 0, scale / mx.maximum(moved, 1e-6), 0.0),
        mx.where(low > 0, scale / mx.maximum(low, 1e-6), 0.0),
    )
