"""Rotations folded into the weights: the model stays one that stock mlx-lm runs.

R1 turns the residual stream: `W_in <- (W diag(gamma)) R`, `W_out <- R^T W_out`, `E <- E R`,
`gamma <- 1` (QuaRot, arXiv 2404.00456, section 3). R2 turns the values of every head between the
rows of v_proj and the columns of o_proj (SpinQuant, arXiv 2405.16406).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import mlx.core as mx

from bitbudget.metal_kernels.blocks import BLOCK
from bitbudget.workers.rotate.structure import Attention, Structure, refuse
from bitbudget.workers.rotate.transform import Edit, Edits, Rotation, random_signs

__all__ = ["fold_residual", "fold_values", "value_obstacle"]

_SHARED: Final = "layers share their values"
Weights = Mapping[str, mx.array]


def _scaled(gamma: mx.array, offset: float) -> Edit:
    return lambda weight: weight * (gamma.astype(mx.float32) + offset)


def _neutral(offset: float) -> Edit:
    return lambda weight: mx.full(weight.shape, 1 - offset)


def fold_residual(
    edits: Edits, structure: Structure, weights: Weights, seed: int, alone: frozenset[int]
) -> None:
    """Add R1 to `edits`; `structure.head` must be a matrix of its own by now.

    Raises UnsupportedModelError where norms stand behind the blocks.
    """
    rotation = Rotation.of(random_signs(structure.hidden_size, seed, "residual"), alone)
    if structure.head is None:
        raise refuse(structure.model_type, "the head is tied", "use --rotation fused")

    def read(norm: str, readers: tuple[str, ...]) -> None:
        offset = structure.offsets[norm]
        for path in readers:
            edits.add(f"{path}.weight", _scaled(weights[f"{norm}.weight"], offset))
            edits.add(f"{path}.weight", rotation.columns)
        edits.add(f"{norm}.weight", _neutral(offset))

    def write(path: str) -> None:
        edits.add(f"{path}.weight", rotation.rows)
        if f"{path}.bias" in weights:
            edits.add(f"{path}.bias", rotation.columns)

    for layer in structure.layers:
        if layer.other_norms:
            raise refuse(
                structure.model_type,
                f"'{layer.other_norms[0]}' stands behind a block: RMS norms with a scale and a "
                "rotation do not commute there",
                "use --rotation fused or none",
            )
        if layer.other_matrices:
            raise refuse(
                structure.model_type,
                f"'{layer.other_matrices[0]}' stands beside the blocks and has no role we know",
                "use --rotation fused or none",
            )
        read(layer.attention_norm, layer.attention.readers)
        read(layer.feed_forward_norm, layer.feed_forward_readers)
        for path in (layer.attention.writer, *layer.feed_forward_writers):
            write(path)
    edits.add(f"{structure.embedding}.weight", rotation.columns)
    read(structure.final_norm, (structure.head,))


def value_obstacle(attention: Attention) -> str:
    """Return what keeps R2 from being exact; nothing where it is.

    Nothing elementwise may stand between the attention and its output matrix.
    """
    if attention.values is None:
        return "no matrix of values before it"
    if attention.is_gated:
        return "a gate stands between the values and it"
    if not attention.kv_heads or not attention.head_width or attention.head_width % BLOCK:
        return "32 does not divide the width of a head"
    return ""


def fold_values(
    edits: Edits, structure: Structure, weights: Weights, seed: int
) -> tuple[int, Counter[str]]:
    """Add R2 to `edits` where it is exact; return in how many layers, and why not in others."""
    count, left_out = 0, Counter[str]()
    for layer in structure.layers:
        attention = layer.attention
        obstacle = _SHARED if structure.shares_values else value_obstacle(attention)
        if obstacle or attention.values is None:
            left_out[f"o_proj: {obstacle}"] += 1
            continue
        signs = random_signs(attention.head_width, seed, "values")
        rows = Rotation.of(mx.tile(signs, attention.kv_heads))
        columns = Rotation.of(mx.tile(signs, attention.heads))
        edits.add(f"{attention.values}.weight", _last_rows(rows))
        if f"{attention.values}.bias" in weights:
            edits.add(f"{attention.values}.bias", _last_entries(rows))
        edits.add(f"{attention.writer}.weight", columns.columns)
        count += 1
    return count, left_out


def _last_rows(rotation: Rotation) -> Callable[[mx.array], mx.array]:
    first = rotation.signs.size

    def edit(weight: mx.array) -> mx.array:
        kept = weight[: weight.shape[0] - first]
        return mx.concatenate([kept, rotation.rows(weight[weight.shape[0] - first :])])

    return edit


def _last_entries(rotation: Rotation) -> Callable[[mx.array], mx.array]:
    first = rotation.signs.size

    def edit(bias: mx.array) -> mx.array:
        kept = bias[: bias.size - first]
        return mx.concatenate([kept, rotation.columns(bias[bias.size - first :])])

    return edit
