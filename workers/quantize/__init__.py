"""Writing the checkpoint that a manifest describes."""

from bitbudget.workers.quantize.writer import Written, write_checkpoint

__all__ = ["Written", "write_checkpoint"]
