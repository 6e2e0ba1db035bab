"""bitbudget: the best mixed-precision quantization that fits a memory budget, to the byte."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("bitbudget")
