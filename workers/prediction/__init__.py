"""Predicted against measured KL: verification and level calibration of the curves."""
