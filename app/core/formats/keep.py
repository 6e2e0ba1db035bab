"""Weights kept as the checkpoint has them, in its own dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bitbudget.app.core.dtypes import Dtype
from bitbudget.app.core.formats.number_format import ArraySpec, Mode

__all__ = ["KEEP_SOURCE", "KeepSource"]


@dataclass(frozen=True, slots=True)
class KeepSource:
    """The checkpoint's own dtype: legal for every module, without groups."""

    mode: Mode = Mode.KEEP
    widths: tuple[tuple[int, int], ...] = ((0, 0),)
    is_stock: bool = True

    def name(self, _bits: int, _group_size: int) -> str:
        """Return `keep`."""
        return self.mode.value

    def short_name(self, _bits: int, _group_size: int) -> str:
        """Return `keep`."""
        return self.mode.value

    def is_legal(self, _in_features: int, _dtype: Dtype, _group_size: int) -> bool:
        """Whether it can be stored: always."""
        return True

    def arrays(
        self, shape: tuple[int, ...], dtype: Dtype, _bits: int, _group_size: int
    ) -> tuple[ArraySpec, ...]:
        """Return the weight itself."""
        return (ArraySpec("weight", dtype, shape),)


KEEP_SOURCE: Final = KeepSource()
