"""Winning back what quantization lost, within the same bytes."""

from workers.recovery.scales import Recovery, recover_scales

__all__ = ["Recovery", "recover_scales"]
