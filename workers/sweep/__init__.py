"""Exact squared errors of every format and features of a weight, in one pass over its bytes."""

from workers.sweep.measure import SWEEP_VERSION, WeightErrors, measure_weight

__all__ = ["SWEEP_VERSION", "WeightErrors", "measure_weight"]
