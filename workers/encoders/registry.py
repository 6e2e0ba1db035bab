"""The only place that dispatches on an encoder.

`app/core/encoders.py` says what each one needs and what stands in for it; here is what each one
does. Curves, writing and trials all encode through `encode` and `ModuleEncoder`, so that what is
measured is what is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.encoders import ENCODERS, Encoder, effective_encoder, encoder_by_weights
from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import KEEP, Format
from bitbudget.workers.encoders.careful import encode_careful
from bitbudget.workers.encoders.coded import Coded
from bitbudget.workers.encoders.gptq import gptq_target
from bitbudget.workers.encoders.minmax import encode_minmax
from bitbudget.workers.encoders.number_formats import dequantize
from bitbudget.workers.encoders.target import Target
from bitbudget.workers.encoders.yaqa import yaqa_target
from bitbudget.workers.native.arrays import Array, as_carried, as_float32

if TYPE_CHECKING:
    from bitbudget.workers.fisher.statistics import ModuleStatistics  # it imports mlx-lm

__all__ = ["ModuleEncoder", "SweepKernel", "encode", "squared_errors", "sweep_kernel"]

_BY_WEIGHTS: Final[Mapping[Encoder, Callable[[Array, Dtype, Format], dict[str, Array]]]] = {
    Encoder.MINMAX: encode_minmax,
    Encoder.CAREFUL: encode_careful,
}
"""Weight (..., out, in) as its dtype is carried, dtype, format -> arrays by suffix."""


class SweepKernel(StrEnum):
    """The encoders whose errors `workers/native/sweep.h` sums without storing anything."""

    MINMAX = "minmax"
    CAREFUL = "careful"


_SWEEP_KERNELS: Final[Mapping[Encoder, SweepKernel]] = {
    Encoder.MINMAX: SweepKernel.MINMAX,
    Encoder.CAREFUL: SweepKernel.CAREFUL,
}

_BY_STATISTICS: Final[
    Mapping[Encoder, Callable[[ModuleStatistics, np.ndarray, tuple[int, ...], int], Target]]
] = {
    Encoder.GPTQ: gptq_target,
    Encoder.YAQA: yaqa_target,
}
"""Statistics of the module, A, index of the expert, its rows -> what its errors are judged by."""


def encode(weight: Array, dtype: Dtype, format_: Format, encoder: Encoder) -> dict[str, Array]:
    """Return the arrays of `format_` that hold `weight`, by suffix, as MLX stores them.

    `weight` is (..., out, in) in the NumPy type that carries `dtype` (bf16 as uint16 bits); scales
    and biases come back in the same type. `minmax` gives the arrays of `mx.quantize`. The same
    input gives the same bytes on every platform.

    Raises InvalidRequestError when the format does not fit the width, or when the encoder needs
    more than the weight.
    """
    if format_ == KEEP:
        return {"weight": np.ascontiguousarray(weight)}
    if encoder not in _BY_WEIGHTS:
        raise InvalidRequestError(
            where="encoder",
            found=encoder.value,
            expected=" or ".join(_BY_WEIGHTS),
            remedy="it needs the statistics of a module: use ModuleEncoder",
        )
    return _BY_WEIGHTS[encoder](weight, dtype, format_)


def sweep_kernel(encoder: Encoder) -> SweepKernel | None:
    """Return the compiled kernel that sums an encoder's errors, None where it has none."""
    return _SWEEP_KERNELS.get(encoder)


def squared_errors(
    weight: Array, dtype: Dtype, formats: Sequence[Format], encoder: Encoder
) -> dict[Format, float]:
    """Return the sum of squares of stored minus given weights (rows, in), by format.

    For encoders by weights alone that have no sweep kernel.
    """
    values = as_float32(weight, dtype)
    found = {}
    for format_ in formats:
        stored = dequantize(encode(weight, dtype, format_, encoder), format_, dtype)
        found[format_] = float(np.sum(np.square(stored - values), dtype=np.float64))
    return found


class ModuleEncoder:
    """An encoder with what is known of one module, falling back by the rule of the core.

    `statistics` None is a module without any. `moment` (..., in, in) replaces the second moment of
    the inputs, for statistics of a part of the module or for inputs that have changed.
    """

    def __init__(
        self,
        statistics: ModuleStatistics | None,
        encoder: Encoder,
        moment: np.ndarray | None = None,
    ) -> None:
        self.statistics, self.encoder = statistics, encoder
        self._moment = moment
        self._has_statistics = statistics is not None and statistics.is_seen

    def effective(self, format_: Format) -> Encoder:
        """Return the encoder that codes this module in `format_`."""
        return effective_encoder(self.encoder, format_, has_statistics=self._has_statistics)

    def uses_statistics(self, format_: Format) -> bool:
        """Whether `format_` is coded with the statistics."""
        return self.effective(format_) in _BY_STATISTICS

    def encode(
        self, weight: Array, dtype: Dtype, format_: Format, index: tuple[int, ...] = ()
    ) -> dict[str, Array]:
        """Return the arrays of one expert's weight (or of the whole, for `()`), by suffix.

        `weight` is (out, in), float32 or as its dtype is carried.
        """
        if self.uses_statistics(format_):
            return self.code(weight, dtype, (format_,), index)[format_].arrays(format_, dtype)
        return encode(as_carried(weight, dtype), dtype, format_, self.effective(format_))

    def encode_all(
        self,
        weight: Array,
        dtype: Dtype,
        formats: Sequence[Format],
        index: tuple[int, ...] = (),
        *,
        sweeps: int | None = None,
    ) -> Iterator[tuple[Format, dict[str, Array]]]:
        """Yield each format with the arrays of one expert's weight, by suffix.

        Formats that share the work of the statistics are coded together, and come first. `sweeps`
        of the descent are as many as pay at this width where they are not given.
        """
        together = [format_ for format_ in formats if self.uses_statistics(format_)]
        for format_, coded in self.code(weight, dtype, together, index, sweeps=sweeps).items():
            yield format_, coded.arrays(format_, dtype)
        for format_ in formats:
            if format_ not in together:
                yield format_, self.encode(weight, dtype, format_, index)

    def values(
        self,
        weight: Array,
        dtype: Dtype,
        formats: Sequence[Format],
        index: tuple[int, ...] = (),
        *,
        sweeps: int | None = None,
    ) -> Iterator[tuple[Format, npt.NDArray[np.float32]]]:
        """Yield each format with the float32 weight that the arrays of `encode_all` stand for."""
        together = [format_ for format_ in formats if self.uses_statistics(format_)]
        for format_, coded in self.code(weight, dtype, together, index, sweeps=sweeps).items():
            yield format_, coded.values
        for format_ in formats:
            if format_ not in together:
                yield (
                    format_,
                    dequantize(self.encode(weight, dtype, format_, index), format_, dtype),
                )

    def code(
        self,
        weight: Array,
        dtype: Dtype,
        formats: Sequence[Format],
        index: tuple[int, ...],
        *,
        sweeps: int | None = None,
    ) -> dict[Format, Coded]:
        """Return one expert's weight coded with the statistics in every one of `formats`."""
        if not formats:
            return {}
        target = self.target(index, len(weight))
        return target.code(as_float32(weight, dtype), formats, dtype, sweeps=sweeps)

    def target(self, index: tuple[int, ...], out: int) -> Target:
        """Return what the errors of one expert with `out` rows are judged by."""
        known = self._known
        return _BY_STATISTICS[self.encoder](known, self.moment[index], index, out)

    @cached_property
    def moment(self) -> np.ndarray:
        """The second moment of the inputs (..., in, in): of a stack of experts it is large."""
        return self._known.second_moment if self._moment is None else self._moment

    @property
    def _known(self) -> ModuleStatistics:
        if self.statistics is None:
            msg = f"{self.encoder.value} has no statistics to judge errors by"
            raise ValueError(msg)
        return self.statistics


def _check_entries() -> None:
    """Raise ValueError where an encoder's entry and what it does here disagree."""
    for encoder, entry in ENCODERS.items():
        table: Mapping[Encoder, object] = _BY_STATISTICS if entry.needs_statistics else _BY_WEIGHTS
        if encoder not in table or encoder_by_weights(encoder) not in _BY_WEIGHTS:
            msg = f"encoder {encoder.value} is not registered for what its entry says it needs"
            raise ValueError(msg)


_check_entries()
