"""Exact squared errors of every format and features of a weight, in one pass over its bytes."""

from bitbudget.workers.sweep.weight_errors import SWEEP_VERSION, WeightErrors, measure_weight

__all__ = ["SWEEP_VERSION", "WeightErrors", "measure_weight"]
