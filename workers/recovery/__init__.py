"""Winning back what quantization lost, within the same bytes."""

from bitbudget.workers.recovery.by_layers import has_room, streams
from bitbudget.workers.recovery.patch import RECORD, finish
from bitbudget.workers.recovery.recover import Ended, Recovery, recover

__all__ = ["RECORD", "Ended", "Recovery", "finish", "has_room", "recover", "streams"]
