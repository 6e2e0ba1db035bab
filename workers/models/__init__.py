"""Checkpoints as mlx-lm sees them: their files, weights and inventory."""

from bitbudget.workers.files.headers import SourceFile, TensorRef
from bitbudget.workers.models.checkpoint import Checkpoint
from bitbudget.workers.models.inventory import build_inventory
from bitbudget.workers.models.opening import checkpoint_from_headers, open_checkpoint

__all__ = [
    "Checkpoint",
    "SourceFile",
    "TensorRef",
    "build_inventory",
    "checkpoint_from_headers",
    "open_checkpoint",
]
