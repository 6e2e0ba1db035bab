"""An OpenAI-compatible endpoint: mlx-lm's own server over `bitbudget.load`."""
