"""What others would make of a model: uniform formats and mlx-lm's mixed recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from bitbudget.app.core.formats import Format, Mode
from bitbudget.app.core.inventory import Inventory, Module

__all__ = ["MIXED_RECIPES", "mixed_formats", "uniform_formats"]

MIXED_RECIPES: Final[Mapping[str, tuple[int, int]]] = {
    "mixed_2_6": (2, 6),
    "mixed_3_4": (3, 4),
    "mixed_3_6": (3, 6),
    "mixed_4_6": (4, 6),
}
"""Low and high bits of the recipes in mlx_lm 0.32, convert.py, mixed_quant_predicate_builder."""

_RECIPE_GROUP_SIZE: Final = 64


def uniform_formats(inventory: Inventory, format_: Format) -> dict[str, Format]:
    """Return what `mlx_lm.convert` gives for one format everywhere.

    A module that cannot hold it keeps the source dtype; one that the model wants in more bits gets
    them.
    """
    return {module.path: _held(module, format_) for module in inventory.modules}


def mixed_formats(inventory: Inventory, recipe: str) -> dict[str, Format]:
    """Return the formats of a recipe: more bits for the head and some value and down projections.

    The first and last eighth of the layers and every third one between get the high bits.
    """
    low, high = (Format(Mode.AFFINE, bits, _RECIPE_GROUP_SIZE) for bits in MIXED_RECIPES[recipe])
    gets_more = _gets_more_bits(inventory.architecture.layers)
    return {
        module.path: _held(module, high if gets_more(module) else low)
        for module in inventory.modules
    }


def _gets_more_bits(layers: int) -> Callable[[Module], bool]:
    def decide(module: Module) -> bool:
        if "lm_head" in module.path:
            return True
        layer = module.layer or 0
        chosen = (
            layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2  # noqa: PLR2004 - the recipe's own period
        )
        names = ("v_proj", "v_a_proj", "v_b_proj", "down_proj")
        return chosen and any(name in module.path for name in names)

    return decide


def _held(module: Module, format_: Format) -> Format:
    if format_.bits < module.floor_bits:
        format_ = Format(Mode.AFFINE, module.floor_bits, _RECIPE_GROUP_SIZE)
    return module.legal_formats((format_,))[0]
