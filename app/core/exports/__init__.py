"""The formats of a manifest as recipes for other quantizers."""

from bitbudget.app.core.export_target import Target
from bitbudget.app.core.exports.auto_round import auto_round_recipe
from bitbudget.app.core.exports.llama_cpp import llama_cpp_recipe
from bitbudget.app.core.exports.mlx_lm import mlx_lm_recipe
from bitbudget.app.core.exports.recipe import Recipe

__all__ = ["Recipe", "Target", "auto_round_recipe", "llama_cpp_recipe", "mlx_lm_recipe"]
