"""How fast a machine does what measuring a model consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import Field

__all__ = ["TYPICAL", "MachineSpeed"]

_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class MachineSpeed:
    """Rates of one machine, measured in seconds and kept.

    `flops_per_second` are those of a float32 matrix product as models are run. `coded_per_second`
    are weights that one thread codes in one affine format (encoder `careful`), of `threads`.
    `dense_per_second` and `packed_per_second` are weights of a bf16 matrix, and of one in 4 bits,
    that a product with one row goes through: decoding is made of them. On a CPU the width of packed
    weights hardly matters.
    `disk_bytes_per_second` is what is written and reaches the disk.

        MachineSpeed(1e11, 3e8, 1e9, threads=2)
    """

    flops_per_second: _Rate
    coded_per_second: _Rate
    disk_bytes_per_second: _Rate
    threads: Annotated[int, Field(ge=1)] = 1
    on_gpu: bool = False
    dense_per_second: _Rate = 1.5e9
    packed_per_second: _Rate = 1.8e8


TYPICAL: Final = MachineSpeed(1e11, 3e8, 1e9, threads=2)
"""Two cores of a server of 2024, where nothing was measured."""
