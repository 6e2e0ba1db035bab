"""Stacked experts that transformers stores as bare parameters, under the names of modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import mlx.core as mx

__all__ = ["named_experts"]

_BARE: Final = re.compile(r"\.mlp\.experts\.(?:gate_up_proj|down_proj)$")
_BIAS: Final = "_bias"


def named_experts(source: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """Return arrays in which gpt-oss's experts are (experts, out, in) and end in `.weight`.

    A gpt-oss in bf16, such as a fine-tune, has them as (experts, in, out) without an ending
    (transformers, `GptOssExperts`); mlx-lm's class reads the published MXFP4 blocks, which are the
    other way round. Only there do experts have biases beside them.
    """
    found = dict(source)
    for name in source:
        if _BARE.search(name) and f"{name}{_BIAS}" in source:
            found[f"{name}.weight"] = found.pop(name).swapaxes(-1, -2)
    return found
