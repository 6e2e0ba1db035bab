"""The curves of large modules, estimated from some of their rows and columns."""

from workers.sampled.curve import SAMPLE, SampleSize, sampled_curve

__all__ = ["SAMPLE", "SampleSize", "sampled_curve"]
