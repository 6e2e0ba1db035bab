"""The arrays of one part of a module, as bytes ready to be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bitbudget.app.core.errors import InvalidModelError
from bitbudget.app.core.formats import Format
from bitbudget.app.core.inventory import Inventory, Module
from bitbudget.app.core.measurement import Encoder
from bitbudget.workers.encoders.registry import encode
from bitbudget.workers.models import Checkpoint

__all__ = ["EncodePart", "check_finite", "check_weights", "weight_encoder"]

EncodePart = Callable[[Module, int, npt.NDArray[Any], Format], dict[str, npt.NDArray[Any]]]
"""Module, index of the part (expert), its weight and format -> array by suffix."""


def weight_encoder(encoder: Encoder) -> EncodePart:
    """Return how an encoder that looks at the weight alone codes one part."""

    def encode_part(
        module: Module, _: int, weight: npt.NDArray[Any], format_: Format
    ) -> dict[str, npt.NDArray[Any]]:
        return encode(weight, module.dtype, format_, encoder)

    return encode_part


def check_weights(checkpoint: Checkpoint, inventory: Inventory) -> None:
    """Raise InvalidModelError naming the first module or array with a NaN or an infinity."""
    paths = [module.path for module in inventory.modules]
    for path in (*paths, *(array.name for array in inventory.passthrough)):
        for part in checkpoint.parts(path):
            check_finite(part, path)


def check_finite(weight: npt.NDArray[Any], path: str) -> None:
    """Raise InvalidModelError naming `path` when `weight` has a NaN or an infinity.

    bf16 comes as uint16: it is not finite when all eight exponent bits are set.
    """
    if weight.dtype == np.uint16:
        odd = (weight & np.uint16(0x7F80)) == np.uint16(0x7F80)
    elif np.issubdtype(weight.dtype, np.floating):
        odd = ~np.isfinite(weight)
    else:
        return
    count = int(np.count_nonzero(odd))
    if count:
        raise InvalidModelError(
            where=path,
            found=f"{count} weights that are NaN or infinite",
            expected="finite weights",
            remedy="download the weights again; if they are the author's, the model is broken",
        )
