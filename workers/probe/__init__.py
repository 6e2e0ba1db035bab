"""Sensitivity by forward passes only, without gradients."""
