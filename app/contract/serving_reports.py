"""What serving a checkpoint is like: with a draft model, on an engine with integer products.

KL is in nats per token, sizes are in bytes.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from bitbudget.app.contract.messages import (
    Amount,
    Flag,
    Line,
    Nats,
    Path,
    Quantity,
    Report,
    Share,
)
from bitbudget.app.contract.reports import Interval

__all__ = ["ActivationReport", "ActivationScores", "DraftReport", "ModuleActivations"]

_MOST_MODULES: Final = 2**18


class ActivationScores(Report):
    """The KL of a checkpoint with rounded activations, and by how much that is more, paired."""

    kl_nats_per_token: Nats
    kl_interval_95: Interval
    more_nats_per_token: Nats
    more_interval_95: Interval


class ModuleActivations(Report):
    """The KL that rounding the inputs of one module alone costs, as they are and rotated."""

    format: Line
    weight_bytes: Amount
    runs_int8: Flag
    kl_nats_per_token: Nats
    rotated_kl_nats_per_token: Nats


class ActivationReport(Report):
    """What an engine that multiplies in integers costs a checkpoint.

    `rounded` rounds what quantized modules read, `rotated` behind a Hadamard transform of 32
    channels. `int8_share` is the share of the bytes of weight files that such an engine can run so:
    affine, 4 or 5 bits, groups of 64. `modules` is empty where the model does not fit in memory.
    """

    activations: Line
    evaluated_on: Line
    tokens: Amount
    kl_nats_per_token: Nats
    kl_interval_95: Interval
    rounded: ActivationScores
    rotated: ActivationScores
    int8_share: Share
    modules: Annotated[dict[Line, ModuleActivations], Field(max_length=_MOST_MODULES)]
    checkpoint: Path
    reference: Path


class DraftReport(Report):
    """What a draft model is worth to a target in speculative decoding with shared noise.

    `predicted_from` says what acceptance follows from: `manifests` or `text`. `independent` is how
    often two independent samples agree, where both models were run. `speedup` is modelled:
    `draft_cost` is the bytes a drafted token reads over a token of the target, `verify_cost` what
    verifying takes in tokens of the target.
    """

    predicted_from: Literal["manifests", "text"]
    acceptance: Share
    expected_acceptance_rate: Share
    independent: Share | None
    kl_nats_per_token: Nats
    temperature: Quantity
    draft_cost: Quantity
    verify_cost: Quantity
    draft_tokens: Amount
    tokens_per_cycle: Quantity
    speedup: Quantity
    tokens: Amount
    target: Path
    draft: Path
