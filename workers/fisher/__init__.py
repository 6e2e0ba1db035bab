"""Where errors hurt: the Fisher statistics of every module, one layer in memory at a time."""

from workers.fisher.collect import collect_statistics
from workers.fisher.floating import load_float32
from workers.fisher.statistics import KroneckerTerm, ModuleStatistics, Statistics
from workers.fisher.tokens import default_tokens, sample_tokens

__all__ = [
    "KroneckerTerm",
    "ModuleStatistics",
    "Statistics",
    "collect_statistics",
    "default_tokens",
    "load_float32",
    "sample_tokens",
]
