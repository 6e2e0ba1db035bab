"""Errors of our own formats, which no sweep kernel sums: those of rows that are really encoded.

Of a large weight every so many-th row is encoded. Its total is the ratio of the rows' errors to
their energies, times the energy of the weight (Cochran, Sampling Techniques, chapter 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.formats import OWN_FORMATS, Format
from bitbudget.workers.encoders.number_formats import dequantize
from bitbudget.workers.encoders.registry import encode
from bitbudget.workers.native.arrays import Array, as_float32

if TYPE_CHECKING:
    from bitbudget.workers.sweep.plan import SweepPlan

__all__ = ["OwnSums", "encode_rows", "rows_step"]

_ENCODED_WEIGHTS: Final = 1 << 20
"""Weights of the rows that are encoded, at least; a smaller weight is encoded whole."""


def rows_step(weights: int) -> int:
    """Return of how many rows one is encoded."""
    return max(1, weights // _ENCODED_WEIGHTS)


@dataclass(frozen=True, slots=True)
class OwnSums:
    """What was found in the encoded rows.

    `errors`, `squares` and `products` (formats,) are sums of a row's squared error, of its square
    and of its product with the row's energy, in the order of OWN_FORMATS; `energy` and
    `energy_squares` sum energies and their squares over `rows` rows of `all_rows`.
    """

    errors: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    products: npt.NDArray[np.float64]
    energy: float
    energy_squares: float
    rows: int
    all_rows: int

    def joined(self, later: OwnSums) -> OwnSums:
        """Return the sums of this and the segment that follows."""
        return OwnSums(
            self.errors + later.errors,
            self.squares + later.squares,
            self.products + later.products,
            self.energy + later.energy,
            self.energy_squares + later.energy_squares,
            self.rows + later.rows,
            self.all_rows + later.all_rows,
        )

    def t2(self) -> Mapping[Format, tuple[float, float]]:
        """Return the share of lost energy by format, with its relative standard error."""
        if self.energy <= 0:
            return dict.fromkeys(OWN_FORMATS, (0.0, 0.0))
        ratios = self.errors / self.energy
        rest = self.squares - 2 * ratios * self.products + ratios**2 * self.energy_squares
        part = 1 - self.rows / self.all_rows
        spread = np.maximum(rest, 0) * part * self.rows / max(self.rows - 1, 1)
        found = np.maximum(self.errors, 1e-300)
        doubt = np.where(self.errors > 0, np.sqrt(spread) / found, 0.0)
        return {
            f: (float(t2), float(error))
            for f, t2, error in zip(OWN_FORMATS, ratios, doubt, strict=True)
        }


def encode_rows(weights: Array, plan: SweepPlan, first_row: int) -> OwnSums | None:
    """Return the sums of a segment of whole rows; None where no own format is wanted of it."""
    wanted = [format_ for format_ in OWN_FORMATS if format_ in plan.formats]
    if not wanted or not weights.size:
        return None
    rows = weights.reshape(-1, plan.width)
    some = np.ascontiguousarray(rows[-first_row % plan.own_step :: plan.own_step])
    values = as_float32(some, plan.dtype)
    energies = np.einsum("ij,ij->i", values, values, dtype=np.float64)
    sums = np.zeros((3, len(OWN_FORMATS)))
    for format_ in wanted:
        stored = dequantize(encode(some, plan.dtype, format_, plan.encoder), format_, plan.dtype)
        stored -= values
        lost = np.einsum("ij,ij->i", stored, stored, dtype=np.float64)
        at = OWN_FORMATS.index(format_)
        sums[:, at] = lost.sum(), np.square(lost).sum(), lost @ energies
    squared = float(energies @ energies)
    errors, squares, products = sums
    totals = (float(energies.sum()), squared, len(some), len(rows))
    return OwnSums(errors, squares, products, *totals)
