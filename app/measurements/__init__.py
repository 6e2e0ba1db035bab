"""Measurements: stored rate-distortion tables and what can be asked of them."""
