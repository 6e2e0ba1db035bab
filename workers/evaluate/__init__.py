"""How far a quantized checkpoint is from its original, with what that number is worth."""

from workers.evaluate.evaluate import Evaluation, evaluate
from workers.evaluate.statistics import compare

__all__ = ["Evaluation", "compare", "evaluate"]
