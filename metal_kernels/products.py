"""Launches of products with packed weights, whatever decodes the parameters of their groups."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import mlx.core as mx

from bitbudget.metal_kernels.blocks import BLOCK
from bitbudget.metal_kernels.launch import Launch, Source

__all__ = ["Order", "Product"]

_INPUTS: Final = ("x", "w", "scales", "second")
_ROWS: Final = 4
_SIMD_GROUPS: Final = 2
_TILE: Final = 32
_LEAST_WORDS: Final = 8
_WIDE_LANES: Final = (2, 3, 4, 5)
"""Widths at which a lane takes 16 inputs, as mlx's qmv_fast does; else 8."""


class Order(StrEnum):
    """Which tile each threadgroup of a tiled product takes.

    `LINEAR` goes along the outputs, then to the next 32 rows. `MORTON` stays near in both
    directions, so that threadgroups which run together read the same rows from caches.
    """

    LINEAR = "linear"
    MORTON = "morton"


@dataclass(frozen=True, slots=True)
class Product:
    """x W^T, or with `rotate` (B x) W^T, for x (..., K) and packed codes w of W (N, K); checked.

    `layout` names the decoder of group parameters. `second` are the biases of affine weights; in
    other layouts it is what else a group has. `order` is that of the tiled launch.
    """

    x: mx.array
    w: mx.array
    scales: mx.array
    second: mx.array
    bits: int
    group_size: int
    layout: str
    rotate: bool
    order: Order = Order.LINEAR

    def vector(self) -> Launch:
        """Return the launch for few rows of x."""
        outputs = self.w.shape[0]
        blocks = -(-outputs // (_ROWS * _SIMD_GROUPS))
        return self._launch(
            "rht_qmv",
            headers=("butterfly", "affine"),
            options=(("VALUES", 16 if self.bits in _WIDE_LANES else 8), ("ROWS", _ROWS)),
            grid=(self._rows * BLOCK, blocks * _SIMD_GROUPS, 1),
            threadgroup=(BLOCK, _SIMD_GROUPS, 1),
        )

    def matrix(self) -> Launch:
        """Return the launch for many rows of x, in tiles of 32 rows and 32 outputs."""
        across, down = -(-self.w.shape[0] // _TILE), -(-self._rows // _TILE)
        morton = self.order is Order.MORTON
        if morton:
            across, down = _power_of_two(across) * _power_of_two(down), 1
        return self._launch(
            "rht_qmm",
            headers=("matrix", "morton", "butterfly", "affine"),
            options=(("MORTON", morton),),
            grid=(across * 128, down, 1),
            threadgroup=(128, 1, 1),
        )

    @property
    def _rows(self) -> int:
        return self.x.size // self.x.shape[-1]

    def _launch(
        self,
        body: str,
        *,
        headers: tuple[str, ...],
        options: tuple[tuple[str, int], ...],
        grid: tuple[int, int, int],
        threadgroup: tuple[int, int, int],
    ) -> Launch:
        suffix = "" if self.layout == "affine" else f"_{self.layout}"
        return Launch(
            source=Source(
                name=f"bitbudget_{body}{suffix}",
                inputs=_INPUTS,
                outputs=("y",),
                body=body,
                headers=(*headers, f"group_{self.layout}"),
            ),
            inputs=(
                self.x.reshape(self._rows, -1),
                _addressable(self.w),
                self.scales,
                self.second,
            ),
            template=(
                ("T", self.x.dtype),
                ("BITS", self.bits),
                ("GROUP", self.group_size),
                ("ROTATE", self.rotate),
                *options,
            ),
            grid=grid,
            threadgroup=threadgroup,
            output_shapes=((*self.x.shape[:-1], self.w.shape[0]),),
            output_dtypes=(self.x.dtype,),
        )


def _power_of_two(count: int) -> int:
    """Return the least power of two that is not below `count`."""
    return 1 << (count - 1).bit_length()


def _addressable(w: mx.array) -> mx.array:
    """Return `w` with at least 8 words: MLX passes fewer as `constant`, which has no bytes."""
    missing = _LEAST_WORDS - w.size
    return w if missing <= 0 else mx.pad(w, [(0, 0), (0, -(-missing // w.shape[0]))])
