"""How the energy of a weight spreads over directions, without a decomposition of it.

The effective rank (|W|_F^2)^2 / |W^T W|_F^2, the participation ratio of the squared singular
values, needs the Frobenius norm of A = W^T W only. For vectors z of random signs the mean of
|A z|^2 is its square (Hutchinson, Communications in Statistics 18, 1989); half of the vectors give
a low-rank approximation of A, whose norm is known, the others the rest, which takes away most of
the variance (NA-Hutch++, Meyer, Musco, Musco and Woodruff 2021). Tall matrices are probed on some
of their rows.

`full` adds the leading 256 squared singular values by a randomized Nystrom approximation of W^T W
in one pass (Tropp, Yurtsever, Udell and Cevher, SIAM J. Matrix Anal. Appl. 38, 2017, algorithm 3).
"""

from __future__ import annotations

import ctypes
import functools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from bitbudget.workers.native.arrays import Array, address, storage_code, to_float32
from bitbudget.workers.native.loader import kernels
from bitbudget.workers.sweep.plan import SweepPlan

__all__ = ["SpectrumSums", "probe_segment", "spectrum_features"]

Floats = npt.NDArray[np.float32]

PROBES: Final = 16
SKETCH_RANK: Final = 256
ENERGY_RANKS: Final = (1, 16, 64, 256)
_SEED: Final = 20260101
_ROWS_AT_ONCE: Final = 8
_PADDING: Final = 16


@dataclass(frozen=True, slots=True)
class SpectrumSums:
    """Sums over rows S, every `step`-th: `image` is W_S^T W_S Z (in, 16), `fourths` sum |row|^4.

    `sketch` is W^T W Omega (in, rank) over all rows, empty unless the plan is `full`.
    """

    step: int
    image: Floats
    fourths: float
    sketch: Floats

    def joined(self, later: SpectrumSums) -> SpectrumSums:
        """Return the sums of this and the segment that follows."""
        return SpectrumSums(
            self.step,
            self.image + later.image,
            self.fourths + later.fourths,
            self.sketch + later.sketch,
        )


def probe_segment(weights: Array, plan: SweepPlan, first_row: int) -> SpectrumSums | None:
    """Return the sums of a segment of whole rows; None for widths that 16 does not divide."""
    width = plan.width
    if width % PROBES or not width or not weights.size:
        return None
    image = np.zeros((width, PROBES), np.float32)
    scratch = np.empty(_ROWS_AT_ONCE * (width + _PADDING), np.float32)
    call = kernels().bitbudget_probe
    call.restype = ctypes.c_double
    rows = weights.size // width
    counts = (rows, width, -first_row % plan.rows_step, plan.rows_step)
    fourths = call(
        address(weights),
        *map(ctypes.c_longlong, counts),
        storage_code(plan.dtype),
        address(_probes(width)),
        address(scratch),
        address(image),
    )
    sketch = np.zeros((0, 0), np.float32)
    if plan.full:
        matrix = to_float32(weights, plan.dtype).reshape(rows, width)
        sketch = matrix.T @ (matrix @ _test_matrix(width))
    return SpectrumSums(plan.rows_step, image, float(fourths), sketch)


@functools.lru_cache(maxsize=8)
def _probes(width: int) -> Floats:
    """Return Z (in, 16) of random signs, the same for every matrix of this width."""
    signs = np.random.default_rng((_SEED, width)).integers(0, 2, (width, PROBES))
    return (2 * signs - 1).astype(np.float32)


@functools.lru_cache(maxsize=8)
def _test_matrix(width: int) -> Floats:
    """Return Omega (in, rank) with orthonormal columns."""
    rng = np.random.default_rng((_SEED, width, SKETCH_RANK))
    gaussian = rng.standard_normal((width, min(width, SKETCH_RANK)))
    return np.linalg.qr(gaussian)[0].astype(np.float32)


def spectrum_features(sums: SpectrumSums, energy: float) -> dict[str, float]:
    """Return `effective_rank` and, of a full plan, `stable_rank` and energies.

    `energy` is |W|_F^2. `energy_top_k` is the part of it in the k leading directions, k = 1, 16, 64
    and 256; `spectral_tail` the part outside of the last.
    """
    if energy <= 0:
        return {}
    pairs = max(_squared_norm(sums.image) - sums.fourths, 0.0)
    fourth_power = sums.fourths * sums.step + pairs * sums.step**2
    features = {"effective_rank": energy**2 / fourth_power} if fourth_power > 0 else {}
    if not sums.sketch.size:
        return features
    leading = np.cumsum(_leading_eigenvalues(sums.sketch)) / energy
    features["stable_rank"] = 1 / leading[0] if leading[0] > 0 else 0.0
    for rank in ENERGY_RANKS:
        features[f"energy_top_{rank}"] = float(min(leading[min(rank, len(leading)) - 1], 1.0))
    features["spectral_tail"] = 1 - features[f"energy_top_{ENERGY_RANKS[-1]}"]
    return features


def _squared_norm(image: Floats) -> float:
    """Estimate |A|_F^2 from A Z, Z the probes of this width."""
    call = kernels().bitbudget_squared_norm
    call.restype = ctypes.c_double
    probes = _probes(len(image))
    return float(call(address(probes), address(image), ctypes.c_longlong(len(image))))


def _leading_eigenvalues(sketch: Floats) -> npt.NDArray[np.float64]:
    """Return the eigenvalues of the Nystrom approximation, falling."""
    image = sketch.astype(np.float64)
    test = _test_matrix(len(image)).astype(np.float64)
    shift = math.sqrt(len(image)) * np.finfo(np.float32).eps * float(np.linalg.norm(image, 2))
    shifted = image + shift * test
    core = test.T @ shifted
    factor = np.linalg.cholesky((core + core.T) / 2)
    singular = np.linalg.svd(np.linalg.solve(factor, shifted.T), compute_uv=False)
    return np.maximum(singular**2 - shift, 0)
