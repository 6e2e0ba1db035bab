"""Checkpoints as mlx-lm sees them: their files, weights and inventory."""

from workers.models.checkpoint import Checkpoint
from workers.models.headers import SourceFile, TensorRef
from workers.models.inventory import build_inventory
from workers.models.opening import checkpoint_from_headers, open_checkpoint

__all__ = [
    "Checkpoint",
    "SourceFile",
    "TensorRef",
    "build_inventory",
    "checkpoint_from_headers",
    "open_checkpoint",
]
