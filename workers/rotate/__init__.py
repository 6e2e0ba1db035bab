"""Rotating models before quantization, without changing what they compute."""

from bitbudget.workers.rotate.rotate import RotationReport, rotate_checkpoint, rotation_kl

__all__ = ["RotationReport", "rotate_checkpoint", "rotation_kl"]
