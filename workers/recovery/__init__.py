"""Winning back what quantization lost, within the same bytes."""

from workers.recovery.recover import Recovery, recover

__all__ = ["Recovery", "recover"]
