"""A job from a model and a budget to a proven checkpoint: its steps and what they share."""
