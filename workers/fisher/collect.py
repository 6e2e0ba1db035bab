"""The Fisher statistics of a checkpoint: forward once, then backward one layer at a time.

Peak memory is one layer with the activations of one batch and its gradients, plus that layer's
moments: hidden states lie on disk between layers, and each layer's weights are read when its turn
comes and dropped after it. A layer's statistics and the gradient that enters the layer below are
written when it is done, so a killed pass goes on from there.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from workers.fisher.floating import load_float32
from workers.fisher.moments import FULL_ROWS
from workers.fisher.passes import Pass
from workers.fisher.statistics import Statistics
from workers.fisher.store import PassStore
from workers.models.checkpoint import Checkpoint

__all__ = ["collect_statistics"]


def collect_statistics(
    checkpoint: Checkpoint | Path,
    tokens: np.ndarray,
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    scratch: Path | None = None,
) -> Statistics:
    """Measure the sensitivity of every quantizable module of the model in `checkpoint`.

    Args:
        checkpoint: A checkpoint, or the folder of one, that mlx-lm can build.
        tokens: int32 (sequences, length), best the model's own text (`sample_tokens`).
        seed: Of the labels sampled from the model's predictions.
        progress: Told how many of how many steps are done.
        scratch: Where hidden states and finished layers are kept; a second call with the same
            folder, tokens and seed resumes there. Without it everything returns in memory.

    Raises:
        InvalidModelError: An activation or a gradient is NaN or infinite.
    """
    folder = checkpoint if isinstance(checkpoint, Path) else checkpoint.folder
    if scratch is None:
        with tempfile.TemporaryDirectory(prefix="bitbudget-fisher-") as temporary:
            statistics = _run(folder, tokens, seed, progress, Path(temporary))
            modules = {path: statistics[path] for path in statistics}
        return Statistics(statistics.tokens, modules, notes=statistics.notes)
    key = hashlib.sha256(f"{folder.resolve()}|{seed}|{tokens.shape}|".encode() + tokens.tobytes())
    return _run(folder, tokens, seed, progress, scratch / f"fisher-{key.hexdigest()[:16]}")


def _run(
    folder: Path,
    tokens: np.ndarray,
    seed: int,
    progress: Callable[[int, int], None] | None,
    place: Path,
) -> Statistics:
    store = PassStore(place)
    run = Pass(lambda: load_float32(folder), tokens, seed, store, progress)
    notes = [f"B is diagonal where a module has more than {FULL_ROWS} outputs"]
    if run.is_chain():
        run.layer_by_layer()
    else:
        notes.append("the layers form no chain: the whole model was differentiated at once")
        run.whole_model()
    return Statistics(int(tokens.size), files=store.finish(), notes=tuple(notes))
