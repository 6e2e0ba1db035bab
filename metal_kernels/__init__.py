"""Metal kernels, their launchers and their references in MLX operations."""
