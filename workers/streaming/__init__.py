"""Measure a whole checkpoint at the speed of its disk, with memory bound by a constant."""

from bitbudget.workers.streaming.progress import Progress
from bitbudget.workers.streaming.store import Features, MeasuredTensor, Measuring
from bitbudget.workers.streaming.tensor_errors import measure_tensors
from bitbudget.workers.streaming.tensors import TensorTask

__all__ = [
    "Features",
    "MeasuredTensor",
    "Measuring",
    "Progress",
    "TensorTask",
    "measure_tensors",
]
