"""Fisher information of every module as Kronecker factors, one layer in memory at a time."""

from bitbudget.workers.fisher.collect import begin_collecting, collect_statistics
from bitbudget.workers.fisher.statistics import KroneckerTerm, ModuleStatistics, Statistics

__all__ = [
    "KroneckerTerm",
    "ModuleStatistics",
    "Statistics",
    "begin_collecting",
    "collect_statistics",
]
