"""Drafted tokens that mlx-lm accepts with shared noise, counted beside what is predicted.

python -m benchmarks.drafts TARGET DRAFT [TEXTS]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np

import bitbudget
from bitbudget.app.contract.tasks import DraftTask
from bitbudget.workers.evaluate.windows import rollout_windows
from bitbudget.workers.pipeline.drafting import draft_report
from bitbudget.workers.running.float32 import load_float32

__all__ = ["Counted", "count_accepted", "main", "tried_and_accepted"]

_DRAFTED: Final = 4
_PROMPT_TOKENS: Final = 8
_NEW_TOKENS: Final = 100


@dataclass(frozen=True, slots=True)
class Counted:
    """Drafted tokens that were compared with the target's, and those that were equal."""

    tried: int
    accepted: int

    @property
    def rate(self) -> float:
        """Return the share that was accepted."""
        return self.accepted / self.tried


def tried_and_accepted(from_draft: Iterable[bool], drafted: int) -> Counted:
    """Return the counts of the whole cycles in the third values that mlx-lm yields.

    A cycle accepts n <= `drafted` tokens and ends with one of the target: it tried n + 1 tokens,
    or n where all were accepted. An unfinished cycle at the end is left out.
    """
    tried = accepted = run = 0
    for is_drafted in from_draft:
        if is_drafted:
            run += 1
            continue
        tried, accepted, run = tried + min(run + 1, drafted), accepted + run, 0
    return Counted(tried, accepted)


def count_accepted(target: Path, draft: Path, *, texts: int = 10, seed: int = 0) -> Counted:
    """Return what stock speculative decoding accepts, both models in float32 at temperature 1.

    Every text goes on from the first 8 tokens of one that the target wrote, for 100 tokens.
    """
    models = load_float32(target), load_float32(draft)
    windows = rollout_windows(target, texts, seed=seed + 1)
    flags = [
        flag
        for number, window in enumerate(windows)
        for flag in _flags(models, window[:_PROMPT_TOKENS], seed + number)
    ]
    return tried_and_accepted(flags, _DRAFTED)


def _flags(models: tuple[Any, Any], prompt: np.ndarray, seed: int) -> Iterator[bool]:
    """Give for every token whether it was drafted; the last, shortened cycles are left out."""
    from mlx_lm.generate import speculative_generate_step  # noqa: PLC0415, all of mlx-lm

    noise = bitbudget.shared_noise(seed=seed, prompt_tokens=prompt.size)
    steps = speculative_generate_step(
        mx.array(prompt),
        *models,
        num_draft_tokens=_DRAFTED,
        max_tokens=_NEW_TOKENS + _DRAFTED,
        logits_processors=[noise],
    )
    cycle: list[bool] = []
    for made, (_, _, is_drafted) in enumerate(steps, 1):
        cycle.append(bool(is_drafted))
        if not is_drafted:
            yield from cycle
            cycle = []
            if made >= _NEW_TOKENS - _DRAFTED:
                return


def main(target: str, draft: str, texts: str = "20") -> None:
    """Print as JSON what `evaluate --draft` says, with and without a run, and what is counted."""
    asked = {"home": str(Path.cwd()), "target": target, "draft": draft}
    told = draft_report(DraftTask.model_validate(asked))
    run = draft_report(DraftTask.model_validate({**asked, "rollouts": 16}))
    counted = count_accepted(Path(target), Path(draft), texts=int(texts))
    found = {
        "predicted": {told.predicted_from: told.acceptance, run.predicted_from: run.acceptance},
        "independent samples": run.independent,
        "counted": counted.rate,
        "tried": counted.tried,
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
