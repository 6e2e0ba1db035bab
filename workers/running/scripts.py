"""What a model is made to read in each row of its own text, and where it writes itself."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt

from bitbudget.workers.models.chat import Chat

__all__ = ["OWN", "Script", "asking", "from_begin"]

OWN: Final = -1
"""Stands where the model writes until it ends its turn."""
_PROMPT_SHARE: Final = 4
"""Prompts take one in so many tokens of a row at most."""
_FEWEST_PROMPTS: Final = 32


@dataclass(frozen=True, slots=True)
class Script:
    """What a model reads and where it writes: int32 `rows` (sequences, length), `OWN` where itself.

    Where a row has something else next, it goes on with that after one of the tokens `ends`.
    """

    rows: npt.NDArray[np.int32]
    ends: Collection[int] = ()

    def beside(self, other: Script) -> Script:
        """Return a script of the rows of both, which are of one length."""
        return Script(np.concatenate([self.rows, other.rows]), {*self.ends, *other.ends})


def from_begin(begin: int, count: int, length: int) -> npt.NDArray[np.int32]:
    """Return int32 (count, length): the beginning token, after which all is the model's own."""
    script = np.full((count, length), OWN, np.int32)
    script[:, 0] = begin
    return script


def asking(chat: Chat, count: int, length: int, *, seed: int) -> npt.NDArray[np.int32]:
    """Return int32 (count, length): in each row a prompt, `OWN`, the user's next turn, `OWN`, ...

    Three quarters of a row are left to the model. Prompts that are longer than the rest are left
    out; where that would be nearly all, the shortest are cut to their first token and their last
    words.
    """
    most, generator = max(1, length // _PROMPT_SHARE), np.random.default_rng(seed)
    starts = _fitting(chat.starts, most)
    rounds = -(-count // len(starts))
    order = chain.from_iterable(generator.permutation(len(starts)) for _ in range(rounds))
    script = np.full((count, length), OWN, np.int32)
    for row, first in zip(script, order, strict=False):
        parts = [starts[first]]
        for turn in generator.permutation(len(chat.turns)):
            if sum(map(len, parts)) + len(chat.turns[turn]) <= most:
                parts.append(chat.turns[turn])
        ids = [token for part in parts for token in (*part, OWN)]
        row[: len(ids)] = ids[:length]
    return script


def _fitting(starts: tuple[tuple[int, ...], ...], most: int) -> list[tuple[int, ...]]:
    fitting = [ids for ids in starts if len(ids) <= most]
    if len(fitting) >= min(_FEWEST_PROMPTS, len(starts)):
        return fitting
    shortest = sorted(starts, key=len)[:_FEWEST_PROMPTS]
    return [ids if len(ids) <= most else ids[:1] + ids[len(ids) - most + 1 :] for ids in shortest]
