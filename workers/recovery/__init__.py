"""Winning back what quantization lost, within the same bytes."""

from workers.recovery.patch import RECORD, finish
from workers.recovery.recover import Ended, Recovery, recover

__all__ = ["RECORD", "Ended", "Recovery", "finish", "recover"]
