"""The Fisher statistics of a checkpoint: forward once, then backward one layer at a time.

Peak memory is one layer with the activations of one batch and its gradients, plus that layer's
moments: hidden states lie on disk between layers, and each layer's weights are read when its turn
comes and dropped after it. A layer's statistics and the gradient that enters the layer below are
written when it is done, so a killed pass goes on from there.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import mlx.core as mx
import numpy as np

from bitbudget.workers.fisher.kv import kv_curve
from bitbudget.workers.fisher.moments import FULL_ROWS
from bitbudget.workers.fisher.passes import Pass
from bitbudget.workers.fisher.statistics import Statistics
from bitbudget.workers.fisher.store import PassStore, Summary
from bitbudget.workers.models.checkpoint import Checkpoint
from bitbudget.workers.native.memory import return_freed_memory
from bitbudget.workers.running.float32 import load_float32

__all__ = ["begin_collecting", "collect_statistics"]

_VERSION: Final = 6
"""Raised when a pass leaves something else behind."""


def collect_statistics(
    checkpoint: Checkpoint | Path,
    tokens: np.ndarray,
    *,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    scratch: Path | None = None,
    source_dtype: mx.Dtype = mx.bfloat16,
) -> Statistics:
    """Measure the sensitivity of every quantizable module of the model in `checkpoint`.

    Args:
        checkpoint: A checkpoint, or the folder of one, that mlx-lm can build.
        tokens: int32 (sequences, length), best the model's own text (`sample_tokens`).
        seed: Of the labels sampled from the model's predictions.
        progress: Told how many of how many steps are done.
        scratch: Where hidden states and finished layers are kept; a second call with the same
            folder, tokens and seed resumes there. Without it everything returns in memory.
        source_dtype: What the model computes in when it is used, and so what its KV cache holds.

    Raises:
        InvalidModelError: An activation or a gradient is NaN or infinite.
    """
    folder = checkpoint if isinstance(checkpoint, Path) else checkpoint.folder
    if scratch is None:
        with tempfile.TemporaryDirectory(prefix="bitbudget-fisher-") as temporary:
            statistics = _run(
                folder, tokens, seed, progress, Path(temporary), source_dtype=source_dtype
            )
            modules = {path: statistics[path] for path in statistics}
        return replace(statistics, modules=modules, files={})
    place = _place(folder, tokens, seed, scratch, source_dtype)
    return _run(folder, tokens, seed, progress, place, source_dtype=source_dtype)


def begin_collecting(
    folder: Path,
    tokens: np.ndarray,
    hidden: Sequence[np.ndarray],
    *,
    seed: int,
    scratch: Path,
    source_dtype: mx.Dtype = mx.bfloat16,
) -> None:
    """Store hidden states of `tokens` where `collect_statistics` looks for them.

    It is then spared the forward pass. To resume with the same bits after a kill they have to be
    stored before the tokens are.

    Args:
        folder: As that function is given it, like the other arguments.
        tokens: int32 (sequences, length).
        hidden: float32 (sequences, length, width) that enter each layer, and leave the last.
        seed: Of the labels.
        scratch: Where the pass keeps its states.
        source_dtype: What the model computes in when it is used.
    """
    store = PassStore(_place(folder, tokens, seed, scratch, source_dtype))
    for index, state in enumerate(hidden):
        store.write_state("hidden", index, [mx.array(state)])


def _place(
    folder: Path, tokens: np.ndarray, seed: int, scratch: Path, source_dtype: mx.Dtype
) -> Path:
    parts = f"{_VERSION}|{folder.resolve()}|{seed}|{tokens.shape}|{source_dtype}|"
    key = hashlib.sha256(parts.encode() + tokens.tobytes())
    return scratch / f"fisher-{key.hexdigest()[:16]}"


def _run(
    folder: Path,
    tokens: np.ndarray,
    seed: int,
    progress: Callable[[int, int], None] | None,
    place: Path,
    *,
    source_dtype: mx.Dtype,
) -> Statistics:
    store = PassStore(place)
    summary = store.summary()
    if summary is None:
        return_freed_memory()
        run = Pass(
            lambda: load_float32(folder), tokens, seed, store, progress, source_dtype=source_dtype
        )
        summary = _made(run, store)
        store.write_summary(summary)
    costs, own_bits = store.kv_costs(), 8 * source_dtype.size
    return Statistics(
        int(tokens.size),
        files=store.finish(),
        notes=tuple(summary.notes),
        text=tokens,
        kv_curves=tuple(
            kv_curve(layer, costs.get(layer, {}), int(tokens.size), own_bits)
            for layer in summary.kv_layers
        ),
    )


def _made(run: Pass, store: PassStore) -> Summary:
    notes = [f"B is diagonal where a module has more than {FULL_ROWS} outputs"]
    if run.is_chain():
        run.layer_by_layer()
    else:
        notes.append("the layers form no chain: the whole model was differentiated at once")
        run.whole_model()
    if run.kv.failure:
        notes.append(f"KV caches were not measured ({run.kv.failure})")
    return Summary(notes, sorted(store.kv_costs().keys() | run.kv.formats.keys()))
