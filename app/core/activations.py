"""Formats that an engine rounds activations to before a product: symmetric integers in groups."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from bitbudget.app.core.errors import InvalidRequestError
from bitbudget.app.core.formats import Format, Mode

__all__ = ["INT8", "INT8_NATS", "ActivationFormat", "runs_int8"]

_PATTERN: Final = re.compile(r"int([4-8]):(\d{1,5})")
_ENGINE_BITS: Final = (4, 5)
_ENGINE_GROUP: Final = 64


@dataclass(frozen=True, slots=True)
class ActivationFormat:
    """`int8:128`: per token and 128 channels, s = max|x| / 127 and x becomes s rint(x / s).

    >>> ActivationFormat.parse("int8:128").levels
    127
    """

    bits: int
    group_size: int

    @classmethod
    def parse(cls, text: str) -> ActivationFormat:
        """Read `intBITS:GROUP`; InvalidRequestError for anything else."""
        found = _PATTERN.fullmatch(text)
        if found is None or int(found[2]) < 1:
            raise InvalidRequestError(
                where="--activations",
                found=repr(text)[:80],
                expected="intBITS:GROUP with 4 to 8 bits",
                remedy="write for example --activations int8:128",
            )
        return cls(int(found[1]), int(found[2]))

    @property
    def levels(self) -> int:
        """The largest code."""
        return (1 << (self.bits - 1)) - 1

    def __str__(self) -> str:
        return f"int{self.bits}:{self.group_size}"


INT8_NATS: Final = "int8_activation_nats"
"""The feature of a curve: KL in nats per token that rounding the inputs to INT8 costs."""

INT8: Final = ActivationFormat(8, 128)
"""What engines with int8 products round to."""


def runs_int8(format_: Format) -> bool:
    """Whether engines with int8 products take weights stored so: affine, 4 or 5 bits, g64.

    Those for Apple's M5 read such weights of stock checkpoints as they are (oMLX, pull request
    3548); what else is quantized they multiply in the model's own type.
    """
    is_grouped = format_.mode is Mode.AFFINE and format_.group_size == _ENGINE_GROUP
    return is_grouped and format_.bits in _ENGINE_BITS
