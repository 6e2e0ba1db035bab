"""How far a quantized checkpoint is from its original, with what that number is worth."""

from bitbudget.workers.evaluate.evaluation import Evaluator, evaluate
from bitbudget.workers.evaluate.statistics import compare

__all__ = ["Evaluator", "compare", "evaluate"]
