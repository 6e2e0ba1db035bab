"""What `mlx_lm.convert` stores: one format everywhere, or one of its mixed recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from bitbudget.app.core.formats import KEEP, Format, affine
from bitbudget.app.core.inventory import Inventory, Module

__all__ = ["MIXED_RECIPES", "UNIFORM", "mixed_formats", "uniform_formats"]

_GROUP_SIZE: Final = 64
"""mlx-lm's default, in which models state their own wishes and recipes quantize."""

UNIFORM: Final = affine(4, _GROUP_SIZE)
"""What `mlx_lm.convert -q` does by default."""

MIXED_RECIPES: Final[Mapping[str, tuple[int, int]]] = {
    "mixed_2_6": (2, 6),
    "mixed_3_4": (3, 4),
    "mixed_3_6": (3, 6),
    "mixed_4_6": (4, 6),
}
"""Low and high bits of the recipes in mlx_lm 0.32, convert.py, mixed_quant_predicate_builder."""


def uniform_formats(inventory: Inventory, format_: Format) -> dict[str, Format]:
    """Return what `mlx_lm.convert` stores with `format_` for all, by module path.

    A module whose width the group does not divide keeps the source dtype. Where the model asks for
    other bits (a router at 8), it gets those in groups of 64, whatever `format_` is
    (mlx_lm.utils.quantize_model).
    """
    return {module.path: _uniform(module, format_) for module in inventory.modules}


def mixed_formats(inventory: Inventory, recipe: str) -> dict[str, Format]:
    """Return what `mlx_lm.convert --quant-predicate recipe` stores, by module path.

    More bits go to the head, and to value and down projections in the first and last eighth of the
    layers and in every third one between. What the model asks for does not count: the recipe takes
    its place. Empty where mlx-lm refuses, as it does without any down projection.
    """
    if not any("down_proj" in module.path for module in inventory.modules):
        return {}
    low, high = (affine(bits, _GROUP_SIZE) for bits in MIXED_RECIPES[recipe])
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


def _uniform(module: Module, format_: Format) -> Format:
    if format_ == KEEP or _held(module, format_) == KEEP:
        return KEEP
    return _held(module, affine(module.floor_bits, _GROUP_SIZE)) if module.floor_bits else format_


def _held(module: Module, format_: Format) -> Format:
    is_legal = module.quantizable and format_.is_legal(module.in_features, module.dtype)
    return format_ if is_legal else KEEP
