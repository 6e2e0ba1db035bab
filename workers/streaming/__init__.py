"""Measure a whole checkpoint at the speed of its disk, with memory bound by a constant."""

from workers.streaming.measure import MeasuredTensor, Progress, measure_tensors
from workers.streaming.tensors import TensorTask

__all__ = ["MeasuredTensor", "Progress", "TensorTask", "measure_tensors"]
