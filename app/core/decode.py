"""Bytes that one decoded token reads, which is what bounds its speed."""

from __future__ import annotations

from typing import Final

from bitbudget.app.core.formats import Format
from bitbudget.app.core.inventory import Inventory, Module, ModuleKind

__all__ = [
    "DECODE_EFFICIENCY",
    "decode_bytes",
    "decoded_weights",
    "passthrough_decode_bytes",
    "speed_basis",
]

DECODE_EFFICIENCY: Final = 0.8
"""Share of the published bandwidth that decoding reaches: an estimate, 0.7 to 0.85 in the field;
`bitbudget benchmark` measures it."""


def decode_bytes(module: Module, format_: Format) -> int:
    """Return the bytes of `module` read per token.

    An embedding reads one row, and all of them when it is also the head; of stacked experts only
    the chosen ones are read.
    """
    if module.kind is ModuleKind.EMBEDDING:
        row = format_.data_bytes((1, module.in_features), module.dtype)
        whole = format_.data_bytes(module.shape, module.dtype)
        return row + (whole if module.is_tied_head else 0)
    return _of_chosen(module, format_.data_bytes(module.shape, module.dtype))


def decoded_weights(inventory: Inventory) -> int:
    """Return the weights that one decoded token is multiplied by."""
    return sum(map(_multiplied, inventory.modules))


def _multiplied(module: Module) -> int:
    if module.kind is ModuleKind.EMBEDDING:
        return module.weights if module.is_tied_head else 0
    return _of_chosen(module, module.weights)


def _of_chosen(module: Module, amount: int) -> int:
    """Return what of a module's `amount` the experts that a token chooses have, rounded up."""
    if module.kind is ModuleKind.SWITCH_LINEAR and module.experts_per_token:
        return -(-amount * min(module.experts_per_token, module.shape[0]) // module.shape[0])
    return amount


def speed_basis(
    bandwidth_bytes_per_second: float, *, on_gpu: bool, counts_arithmetic: bool = False
) -> str:
    """Return what a predicted decoding speed assumes, as a sentence.

    `counts_arithmetic` says that on a CPU its arithmetic bounds the prediction, too.
    """
    said = (
        f"Predicted tokens/s are {DECODE_EFFICIENCY:.0%} of the memory bandwidth measured here"
        f" ({bandwidth_bytes_per_second / 1e9:.1f} GB/s), over the bytes that a token reads."
    )
    if on_gpu:
        return said
    if counts_arithmetic:
        return (
            f"{said} On a CPU they are no more than its measured arithmetic allows, which is slower"
            " on packed weights; other work on the machine slows it further."
        )
    return (
        f"{said} That is how a Mac's GPU decodes; on a CPU, MLX's arithmetic on packed weights is"
        " slower than memory, and other work on the machine slows it further."
    )


def passthrough_decode_bytes(inventory: Inventory) -> int:
    """Return the bytes of the arrays stored as they are, all read for every token."""
    return sum(array.nbytes for array in inventory.passthrough)
