"""From a checkpoint to the folder of its rotated twin, verified to be the same model."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Final

import mlx.core as mx
import numpy as np
import psutil

from bitbudget.app.core.canonical import JsonObject
from bitbudget.app.core.requests import Rotation as Kind
from bitbudget.rotated_model import KEY
from bitbudget.workers.files.language_part import with_setting
from bitbudget.workers.models import Checkpoint, open_checkpoint
from bitbudget.workers.models.vocabulary import begin_token, embedding_rows
from bitbudget.workers.rotate.checks import mean_kl, noise_floor, observe
from bitbudget.workers.rotate.folded import fold_residual, fold_values
from bitbudget.workers.rotate.fused import fuse
from bitbudget.workers.rotate.streamed_logits import Logits, Tokens, logits_of
from bitbudget.workers.rotate.structure import Structure, read_structure, refuse
from bitbudget.workers.rotate.transform import Edits
from bitbudget.workers.rotate.write import copy_companions, write_config, write_weights
from bitbudget.workers.running.float32 import load_float32
from bitbudget.workers.running.tokens import sample_tokens

__all__ = ["RotationReport", "rotate_checkpoint", "rotation_kl"]

_SAMPLE: Final = (4, 128)
"""Sequences and tokens in each that a rotation is planned and verified on."""
_LEAST_FLOOR: Final = 1e-6
"""Nats per token: float32 rounding alone reaches about this."""
_REPORT: Final = "rotation.json"


@dataclass(frozen=True)
class RotationReport:
    """What was rotated and how equal the result is, KL in nats per token on sampled tokens.

    `tokens` are the model's own (`self`) or `random`; `left_out` says which sites are not rotated,
    why, and how many.
    """

    kind: str
    kl_nats_per_token: float
    noise_floor_nats_per_token: float
    blocks_left_alone: tuple[int, ...]
    value_layers: int
    untied_head: bool
    seed: int
    tokens: str = "self"
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Sample:
    """The tokens a rotation is planned and verified on, and the memory there is for them."""

    seed: int
    sequences: int
    length: int
    memory_bytes: int


@dataclass
class _Plan:
    """The twin to be: its configuration, its sites, and the arrays it is made from."""

    config: JsonObject
    structure: Structure
    weights: dict[str, mx.array]
    edits: Edits = field(default_factory=Edits)
    value_layers: int = 0
    untied: bool = False
    left_out: Counter[str] = field(default_factory=Counter)


def rotate_checkpoint(
    checkpoint: Checkpoint,
    output: Path,
    kind: Kind,
    *,
    seed: int = 0,
    sample: tuple[int, int] = _SAMPLE,
    digests: Path | None = None,
    memory_bytes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Checkpoint, RotationReport]:
    """Write the rotated twin of `checkpoint` to `output` and open it.

    A finished `output` is opened as it is. The twin keeps the identity of the original, whose
    files' digests are remembered in `digests`. Planning, writing and verifying hold one layer or
    one shard of the model. The model writes the text it is verified on where its float32 weights
    fit in half of `memory_bytes` (by default this machine's); larger models get random tokens.
    UnsupportedModelError says why a model is not rotated, or that the rotated model's KL to the
    original exceeds the model's own noise floor (its bfloat16 computation against float32).
    """
    report_progress = progress or (lambda _done, _total: None)
    if not (output / _REPORT).is_file():
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=output.parent, prefix=".rotate-", ignore_cleanup_errors=True
        ) as draft:
            memory = memory_bytes or psutil.virtual_memory().total
            drawn = _Sample(seed, *sample, memory)
            report = _make(checkpoint, Path(draft), kind, drawn, report_progress)
            text = json.dumps(dataclasses.asdict(report), indent=1)
            (Path(draft) / _REPORT).write_text(text)
            shutil.rmtree(output, ignore_errors=True)
            Path(draft).rename(output)
    twin = open_checkpoint(output, checkpoint.name, checkpoint.revision)
    twin = dataclasses.replace(twin, digest=checkpoint.identity(digests).digest)
    return twin, _read(output)


def rotation_kl(checkpoint: Checkpoint) -> float:
    """Return the KL of a rotated twin to its original in nats per token; 0 for other models."""
    is_twin = (checkpoint.folder / _REPORT).is_file()
    return max(0.0, _read(checkpoint.folder).kl_nats_per_token) if is_twin else 0.0


def _read(folder: Path) -> RotationReport:
    fields = json.loads((folder / _REPORT).read_text())
    for name in ("blocks_left_alone", "left_out"):
        fields[name] = tuple(fields.get(name, ()))
    return RotationReport(**fields)


def _make(
    checkpoint: Checkpoint,
    folder: Path,
    kind: Kind,
    sample: _Sample,
    progress: Callable[[int, int], None],
) -> RotationReport:
    seed = sample.seed
    plan = _plan_folded(checkpoint) if kind is Kind.FOLDED else _plan_fused(checkpoint, seed)
    progress(1, 5)
    tokens, text = _tokens(checkpoint, sample)
    progress(2, 5)
    reference, alone = observe(lambda: load_float32(checkpoint.folder), plan.structure, tokens)
    progress(3, 5)
    if kind is Kind.FOLDED:
        fold_residual(plan.edits, plan.structure, plan.weights, seed, alone)
        plan.value_layers, plan.left_out = fold_values(
            plan.edits, plan.structure, plan.weights, seed
        )
    copy_companions(checkpoint.folder, folder)
    write_config(folder, plan.config)
    write_weights(folder, plan.weights, plan.edits)
    progress(4, 5)
    kl, floor = _verify(checkpoint, reference, folder, tokens)
    progress(5, 5)
    return RotationReport(
        kind=kind.value,
        kl_nats_per_token=kl,
        noise_floor_nats_per_token=floor,
        blocks_left_alone=tuple(sorted(alone)) if kind is Kind.FOLDED else (),
        value_layers=plan.value_layers,
        untied_head=plan.untied,
        seed=seed,
        tokens=text,
        left_out=tuple(f"{reason} ({count})" for reason, count in plan.left_out.items()),
    )


def _tokens(checkpoint: Checkpoint, sample: _Sample) -> tuple[Tokens, str]:
    """Return the tokens to verify on and where they are from: `self` or `random`."""
    shape = (sample.sequences, sample.length)
    weights = sum(prod(t.shape) for file in checkpoint.files for t in file.tensors)
    if 4 * weights <= sample.memory_bytes // 2:
        return sample_tokens(checkpoint, *shape, seed=sample.seed), "self"
    generator = np.random.default_rng(sample.seed)
    tokens = generator.integers(0, embedding_rows(checkpoint.folder), shape, dtype=np.int32)
    tokens[:, 0] = begin_token(checkpoint.folder)
    return tokens, "random"


def _plan_folded(checkpoint: Checkpoint) -> _Plan:
    """Return the sites; UnsupportedModelError before any weight is read."""
    model_type = checkpoint.config["model_type"]
    weights = checkpoint.weights()
    config = with_setting(copy.deepcopy(checkpoint.config), "tie_word_embeddings", value=False)
    twin = dataclasses.replace(checkpoint, config=config)
    structure = read_structure(twin.model_without_weights(), model_type)
    if structure.head is None:
        raise refuse(model_type, "its class cannot have a head of its own", "use --rotation fused")
    head = f"{structure.head}.weight"
    untied = head not in weights
    if untied:
        weights[head] = weights[f"{structure.embedding}.weight"]
    fold_residual(Edits(), structure, weights, 0, frozenset())
    return _Plan(config, structure, weights, untied=untied)


def _plan_fused(checkpoint: Checkpoint, seed: int) -> _Plan:
    model = checkpoint.model_without_weights()
    plan = _Plan(
        dict(checkpoint.config),
        read_structure(model, checkpoint.config["model_type"]),
        checkpoint.weights(),
    )
    plan.config[KEY], plan.left_out = fuse(plan.edits, plan.structure, model, plan.weights, seed)
    return plan


def _verify(
    checkpoint: Checkpoint,
    reference: Logits,
    folder: Path,
    tokens: Tokens,
) -> tuple[float, float]:
    """Return the twin's KL and the noise floor; UnsupportedModelError when it is above."""
    kl = mean_kl(reference, logits_of(lambda: load_float32(folder), tokens))
    original = checkpoint.folder
    floor = noise_floor(reference, lambda: load_float32(original), tokens)
    floor = max(floor, _LEAST_FLOOR)
    if not kl <= floor:
        raise refuse(
            checkpoint.config["model_type"],
            f"the rotated model's KL is {kl:.2e} nats per token, above its noise floor {floor:.2e}",
            "use --rotation none",
        )
    return kl, floor
