"""Measure a whole checkpoint at the speed of its disk, with memory bound by a constant."""

from workers.streaming.measure import measure_tensors
from workers.streaming.progress import Progress
from workers.streaming.store import Features, MeasuredTensor, Measuring
from workers.streaming.tensors import TensorTask

__all__ = [
    "Features",
    "MeasuredTensor",
    "Measuring",
    "Progress",
    "TensorTask",
    "measure_tensors",
]
