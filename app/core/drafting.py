"""What a draft model is worth in speculative decoding, from how often its tokens are accepted.

With noise that target and draft share (`bitbudget.shared_noise`) a drafted token is accepted when
both would have sampled it. At a = acceptance and k drafted tokens, a cycle makes
(1 - a^(k+1)) / (1 - a) tokens (Leviathan et al., arXiv 2211.17192, equation 1) and takes the time
of k tokens of the draft and one pass of the target over k + 1 rows. Decoding is bound by the bytes
of the weights, so times are those bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

__all__ = [
    "MOST_DRAFTED",
    "Drafting",
    "acceptance_from_kl",
    "best_drafting",
    "ear_from_kl",
    "tokens_per_cycle",
]

MOST_DRAFTED: Final = 16

_ACCEPTANCE_LOST: Final = 0.6
_OVERLAP_LOST: Final = 0.48
"""Of the square root of the KL, fitted to 12 pairs of checkpoints of tinyqwen3-dense: targets of
16, 8, 6 and 5 bits with drafts of 4, 3 and 2 bits."""


def acceptance_from_kl(kl_nats: float) -> float:
    """Return the acceptance with shared noise of two checkpoints of one model.

    `kl_nats` is the sum of their KL to the original, in nats per token.
    """
    return max(0.0, 1 - _ACCEPTANCE_LOST * math.sqrt(max(kl_nats, 0.0)))


def ear_from_kl(kl_nats: float) -> float:
    """Return the expected acceptance rate sum_i min(p_i, q_i): the most that any scheme reaches."""
    return max(0.0, 1 - _OVERLAP_LOST * math.sqrt(max(kl_nats, 0.0)))


def tokens_per_cycle(acceptance: float, drafted: int) -> float:
    """Return the tokens that a cycle of so many drafted ones makes on average."""
    return sum(acceptance**n for n in range(drafted + 1))


@dataclass(frozen=True, slots=True)
class Drafting:
    """So many tokens drafted at a time; `speedup` is over decoding without a draft."""

    drafted: int
    tokens_per_cycle: float
    speedup: float


def best_drafting(acceptance: float, draft_cost: float, verify_cost: float = 1.0) -> Drafting:
    """Return the number of drafted tokens, 0 to 16, that decodes fastest.

    `draft_cost` is the bytes that a token of the draft reads over those of the target;
    `verify_cost` is what the target's pass over the drafted tokens takes, in tokens of its own.
    """
    options = (Drafting(0, 1.0, 1.0), *_drafting(acceptance, draft_cost, verify_cost))
    return max(options, key=lambda option: option.speedup)


def _drafting(acceptance: float, draft_cost: float, verify_cost: float) -> list[Drafting]:
    made = {k: tokens_per_cycle(acceptance, k) for k in range(1, MOST_DRAFTED + 1)}
    return [Drafting(k, n, n / (k * draft_cost + verify_cost)) for k, n in made.items()]
