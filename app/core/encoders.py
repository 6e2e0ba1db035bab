"""Every encoder there is: what it needs, what it codes, and what stands in for it elsewhere.

An encoder chooses codes, scales and biases inside a format. To add one: a name and an entry here,
a module under `workers/encoders`, and its line in `workers/encoders/registry.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bitbudget.app.core.formats import INTEGER_FORMATS, LOSSY_FORMATS, Format
from bitbudget.app.core.sensitivity import Sensitivity, collects_statistics

__all__ = [
    "ENCODERS",
    "Encoder",
    "EncoderEntry",
    "effective_encoder",
    "encoder_by_weights",
    "sqnr_floor_of",
    "usable_encoder",
]


class Encoder(StrEnum):
    """How codes, scales and biases are chosen inside a format."""

    MINMAX = "minmax"
    CAREFUL = "careful"
    GPTQ = "gptq"
    YAQA = "yaqa"


@dataclass(frozen=True, slots=True)
class EncoderEntry:
    """One encoder.

    `formats` are those that it codes itself, `stands_in` codes everything else: other formats,
    modules without statistics, and whole models whose sensitivity collects none. It needs no
    statistics and codes every format; None for an encoder that does so itself.
    `floor_shift_db` is added to the SQNR floor, which is stated for `minmax`.
    `couples_rows` says that it reads the output side of the Fisher information (B), so that rows
    make up for each other's errors.

    >>> ENCODERS[Encoder.YAQA].stands_in
    <Encoder.CAREFUL: 'careful'>
    """

    label: str
    description: str
    formats: tuple[Format, ...] = LOSSY_FORMATS
    needs_statistics: bool = False
    stands_in: Encoder | None = None
    floor_shift_db: float = 0.0
    couples_rows: bool = False


ENCODERS: Final[Mapping[Encoder, EncoderEntry]] = {
    Encoder.MINMAX: EncoderEntry(
        label="min-max",
        description="range of each group, as `mx.quantize` and mlx-lm do",
    ),
    Encoder.CAREFUL: EncoderEntry(
        label="careful",
        description="least squared error of the weights in each group",
        # It gains 1.6 to 2.0 dB at 2 bits: the floor stays between 2 and 3 bits.
        floor_shift_db=2.0,
    ),
    Encoder.GPTQ: EncoderEntry(
        label="GPTQ",
        description="least output error, columns make up for each other's errors",
        formats=INTEGER_FORMATS,
        needs_statistics=True,
        stands_in=Encoder.CAREFUL,
    ),
    Encoder.YAQA: EncoderEntry(
        label="YAQA",
        description="least KL to second order, rows and columns make up for each other's errors",
        formats=INTEGER_FORMATS,
        needs_statistics=True,
        stands_in=Encoder.CAREFUL,
        couples_rows=True,
    ),
}


def encoder_by_weights(encoder: Encoder) -> Encoder:
    """Return `encoder`, or what stands in for it where nothing but the weight is known."""
    entry = ENCODERS[encoder]
    return entry.stands_in if entry.needs_statistics and entry.stands_in else encoder


def effective_encoder(encoder: Encoder, format_: Format, *, has_statistics: bool) -> Encoder:
    """Return the encoder that codes a module in `format_` when `encoder` is asked for.

    The only rule there is: measurement and writing both go by it.
    """
    entry = ENCODERS[encoder]
    codes = format_ in entry.formats and (has_statistics or not entry.needs_statistics)
    return encoder if codes or entry.stands_in is None else entry.stands_in


def usable_encoder(encoder: Encoder, sensitivity: Sensitivity) -> Encoder:
    """Return `encoder`, or what stands in for it when `sensitivity` collects no statistics."""
    return encoder if collects_statistics(sensitivity) else encoder_by_weights(encoder)


def sqnr_floor_of(encoder: Encoder, floor_db: float) -> float:
    """Return the floor for an encoder's own errors; 0 switches the veto off for every encoder."""
    return floor_db + ENCODERS[encoder].floor_shift_db if floor_db > 0 else 0.0
