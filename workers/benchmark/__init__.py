"""How fast a checkpoint runs on this machine, and how close to what its bytes allow."""

from bitbudget.workers.benchmark.run import benchmark

__all__ = ["benchmark"]
